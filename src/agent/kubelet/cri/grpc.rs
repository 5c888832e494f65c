//! CRI v1 over the runtime's socket; events by containerd's own stream
//! (CRI's event call exists only from containerd 1.7 on).

use std::time::Duration;

use async_trait::async_trait;
use containerd_client::events::{TaskDelete, TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::runtime::{Error, ErrorKind, ExecOutput, Runtime, RuntimeEvent, RuntimeEventKind, v1};

/// Bytes of the largest answer: a node's list of containers or images may be big.
const ANSWER_MAX: usize = 16 << 20;
/// Events that may wait.
const EVENTS: usize = 1024;
/// How long a call may take that has no time of its own.
const CALL: Duration = Duration::from_secs(120);

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Grpc {
    channel: Channel,
}

fn failed(s: tonic::Status) -> Error {
    let kind = match s.code() {
        tonic::Code::NotFound => ErrorKind::NotFound,
        tonic::Code::Unavailable => ErrorKind::Unavailable,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => ErrorKind::Timeout,
        tonic::Code::Unimplemented => ErrorKind::Unimplemented,
        _ if s.message().contains("server is not initialized yet") => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    };
    Error::new(kind, s.message())
}

fn timed<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut r = tonic::Request::new(message);
    r.set_timeout(timeout);
    r
}

fn labels(wanted: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// CRI knows whole seconds only: a grace period is never shortened by that.
fn whole_seconds(d: Duration) -> i64 {
    i64::try_from(d.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

fn gone_is_fine(r: Result<(), Error>) -> Result<(), Error> {
    match r {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

impl Grpc {
    /// A runtime behind a channel.
    pub fn new(channel: Channel) -> Grpc {
        Grpc { channel }
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }
}

/// What an envelope says about a container's main process.
fn event(envelope: containerd_client::types::Envelope) -> Option<RuntimeEvent> {
    if envelope.namespace != crate::images::store::NAMESPACE {
        return None;
    }
    let bytes = envelope.event?.value;
    let (id, kind) = match envelope.topic.as_str() {
        "/tasks/start" => (TaskStart::decode(&bytes[..]).ok()?.container_id, RuntimeEventKind::Started),
        "/tasks/exit" => {
            let e = TaskExit::decode(&bytes[..]).ok()?;
            // Others are commands that were run in it.
            if e.id != e.container_id {
                return None;
            }
            (e.container_id, RuntimeEventKind::Exited)
        }
        "/tasks/oom" => (TaskOom::decode(&bytes[..]).ok()?.container_id, RuntimeEventKind::Oom),
        "/tasks/delete" => {
            let e = TaskDelete::decode(&bytes[..]).ok()?;
            if !e.id.is_empty() && e.id != e.container_id {
                return None;
            }
            (e.container_id, RuntimeEventKind::Deleted)
        }
        _ => return None,
    };
    Some(RuntimeEvent { id, kind })
}

#[async_trait]
impl Runtime for Grpc {
    async fn version(&self) -> Result<v1::VersionResponse, Error> {
        let ask = v1::VersionRequest { version: String::new() };
        Ok(self.runtime().version(timed(ask, CALL)).await.map_err(failed)?.into_inner())
    }

    async fn status(&self) -> Result<v1::RuntimeStatus, Error> {
        let answer = self.runtime().status(timed(v1::StatusRequest { verbose: false }, CALL)).await.map_err(failed)?;
        Ok(answer.into_inner().status.unwrap_or_default())
    }

    async fn events(&self) -> Result<mpsc::Receiver<RuntimeEvent>, Error> {
        // Filters are alternatives.
        let filters = ["start", "exit", "oom", "delete"].map(|t| format!("topic==\"/tasks/{t}\"")).to_vec();
        let ask = SubscribeRequest { filters };
        let mut stream = EventsClient::new(self.channel.clone()).subscribe(ask).await.map_err(failed)?.into_inner();
        let (tx, rx) = mpsc::channel(EVENTS);
        // Ends with its receiver or with the stream.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tx.closed() => return,
                    message = stream.message() => match message {
                        Ok(Some(envelope)) => {
                            if let Some(e) = event(envelope)
                                && tx.send(e).await.is_err()
                            {
                                return;
                            }
                        }
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        });
        Ok(rx)
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, Error> {
        let ask = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(self.runtime().run_pod_sandbox(timed(ask, CALL * 2)).await.map_err(failed)?.into_inner().pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let ask = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime().stop_pod_sandbox(timed(ask, CALL)).await.map(|_| ()).map_err(failed))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let ask = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime().remove_pod_sandbox(timed(ask, CALL)).await.map(|_| ()).map_err(failed))
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let ask = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime().pod_sandbox_status(timed(ask, CALL)).await.map_err(failed)?.into_inner();
        answer.status.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("sandbox {id} has no status")))
    }

    async fn list_sandboxes(&self, wanted: &[(&str, &str)]) -> Result<Vec<v1::PodSandbox>, Error> {
        let filter = v1::PodSandboxFilter { label_selector: labels(wanted), ..Default::default() };
        let ask = v1::ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.runtime().list_pod_sandbox(timed(ask, CALL)).await.map_err(failed)?.into_inner().items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let ask = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime().create_container(timed(ask, CALL)).await.map_err(failed)?.into_inner().container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let ask = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime().start_container(timed(ask, CALL)).await.map(|_| ()).map_err(failed)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let ask = v1::StopContainerRequest { container_id: id.to_owned(), timeout: whole_seconds(grace) };
        gone_is_fine(self.runtime().stop_container(timed(ask, grace + CALL)).await.map(|_| ()).map_err(failed))
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let ask = v1::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(self.runtime().remove_container(timed(ask, CALL)).await.map(|_| ()).map_err(failed))
    }

    async fn list_containers(&self, wanted: &[(&str, &str)]) -> Result<Vec<v1::Container>, Error> {
        let filter = v1::ContainerFilter { label_selector: labels(wanted), ..Default::default() };
        let ask = v1::ListContainersRequest { filter: Some(filter) };
        Ok(self.runtime().list_containers(timed(ask, CALL)).await.map_err(failed)?.into_inner().containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let ask = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime().container_status(timed(ask, CALL)).await.map_err(failed)?.into_inner();
        answer.status.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("container {id} has no status")))
    }

    async fn update_resources(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<(), Error> {
        let ask = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        self.runtime().update_container_resources(timed(ask, CALL)).await.map(|_| ()).map_err(failed)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let ask = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime().reopen_container_log(timed(ask, CALL)).await.map(|_| ()).map_err(failed)
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Error> {
        let ask =
            v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: whole_seconds(timeout) };
        // The runtime keeps the time; the call gets a little more.
        let answer = self.runtime().exec_sync(timed(ask, timeout + Duration::from_secs(5))).await.map_err(failed)?;
        let answer = answer.into_inner();
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error> {
        Ok(self.runtime().exec(timed(request, CALL)).await.map_err(failed)?.into_inner().url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String, Error> {
        Ok(self.runtime().attach(timed(request, CALL)).await.map_err(failed)?.into_inner().url)
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, Error> {
        Ok(self.runtime().port_forward(timed(request, CALL)).await.map_err(failed)?.into_inner().url)
    }

    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, Error> {
        let ask = v1::ListContainerStatsRequest { filter: None };
        Ok(self.runtime().list_container_stats(timed(ask, CALL)).await.map_err(failed)?.into_inner().stats)
    }

    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, Error> {
        let ask = v1::ListPodSandboxStatsRequest { filter: None };
        Ok(self.runtime().list_pod_sandbox_stats(timed(ask, CALL)).await.map_err(failed)?.into_inner().stats)
    }

    async fn image(&self, name: &str) -> Result<Option<v1::Image>, Error> {
        let image = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        let ask = v1::ImageStatusRequest { image: Some(image), verbose: false };
        Ok(self.images().image_status(timed(ask, CALL)).await.map_err(failed)?.into_inner().image)
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        let ask = v1::ListImagesRequest { filter: None };
        Ok(self.images().list_images(timed(ask, CALL)).await.map_err(failed)?.into_inner().images)
    }

    async fn pull_image(
        &self,
        name: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let image = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        // A pull has no time limit: it makes progress or the runtime ends it.
        let ask = v1::PullImageRequest { image: Some(image), auth, sandbox_config: Some(sandbox_config) };
        Ok(self.images().pull_image(ask).await.map_err(failed)?.into_inner().image_ref)
    }

    async fn remove_image(&self, name: &str) -> Result<(), Error> {
        let image = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        let ask = v1::RemoveImageRequest { image: Some(image) };
        gone_is_fine(self.images().remove_image(timed(ask, CALL)).await.map(|_| ()).map_err(failed))
    }

    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>, Error> {
        let answer = self.images().image_fs_info(timed(v1::ImageFsInfoRequest {}, CALL)).await.map_err(failed)?;
        Ok(answer.into_inner().image_filesystems)
    }
}
