//! What a signing request asks for, and what Kubernetes' own signers allow
//! (upstream: `pkg/apis/certificates/helpers.go`). Pure.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// Signs client certificates for anybody.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs client certificates for kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates for kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signed anything, before signers had names. The API takes no new requests for it.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Whom a request is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Requested {
    pub common_name: String,
    organizations: Vec<String>,
    dns: bool,
    email: bool,
    ip: bool,
    uri: bool,
}

impl Requested {
    /// Reads PKCS#10 in PEM.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(pem: &[u8]) -> Result<Requested, String> {
        let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
        let block = block.filter(|b| b.label == "CERTIFICATE REQUEST");
        let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
        let subject = &request.certification_request_info.subject;
        let name = subject.iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default();
        let mut requested = Requested {
            common_name: name.to_owned(),
            organizations: subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect(),
            ..Default::default()
        };
        let extensions = request.requested_extensions().into_iter().flatten();
        for extension in extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => requested.dns = true,
                    GeneralName::RFC822Name(_) => requested.email = true,
                    GeneralName::IPAddress(_) => requested.ip = true,
                    GeneralName::URI(_) => requested.uri = true,
                    _ => {}
                }
            }
        }
        Ok(requested)
    }

    /// Whether this is the client certificate of a kubelet.
    ///
    /// # Errors
    /// What is against it.
    pub fn is_kubelet_client(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        let forbidden = [(self.dns, "DNS"), (self.email, "Email"), (self.ip, "IP"), (self.uri, "URI")];
        refuse_names(&forbidden)?;
        self.has_name_of_node()?;
        are(usages, "client auth")
    }

    /// Whether this is the serving certificate of a kubelet.
    ///
    /// # Errors
    /// What is against it.
    pub fn is_kubelet_serving(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        if !self.dns && !self.ip {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        refuse_names(&[(self.email, "Email"), (self.uri, "URI")])?;
        are(usages, "server auth")?;
        self.has_name_of_node()
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        let fits = self.organizations == [NODES];
        if fits { Ok(()) } else { Err(format!("subject organization is not {NODES}")) }
    }

    fn has_name_of_node(&self) -> Result<(), String> {
        let fits = self.common_name.starts_with(NODE_PREFIX);
        if fits { Ok(()) } else { Err(format!("subject common name does not begin with {NODE_PREFIX}")) }
    }
}

fn refuse_names(present: &[(bool, &str)]) -> Result<(), String> {
    match present.iter().find(|(is, _)| *is) {
        Some((_, kind)) => Err(format!("{kind} subjectAltNames are not allowed")),
        None => Ok(()),
    }
}

/// The usages must be those of TLS, as clients or servers have them.
fn are(usages: &[String], purpose: &str) -> Result<(), String> {
    let all = if purpose < "digital signature" {
        [purpose, "digital signature", "key encipherment"]
    } else {
        ["digital signature", "key encipherment", purpose]
    };
    let every = |wanted: &[&str]| {
        wanted.iter().all(|w| usages.iter().any(|u| u == w)) && usages.iter().all(|u| wanted.contains(&u.as_str()))
    };
    if every(&all) || every(&["digital signature", purpose]) {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", all.join(" ")))
}

/// Whether the usages are those of a client.
///
/// # Errors
/// What is against it.
pub fn are_of_client(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|u| !allowed.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    pub fn pem(common_name: &str, organization: &str, names: &[&str]) -> String {
        let mut p = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            p.distinguished_name.push(DnType::OrganizationName, organization);
        }
        p.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    pub fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|u| (*u).to_owned()).collect()
    }

    fn requested(common_name: &str, organization: &str, names: &[&str]) -> Requested {
        Requested::parse(pem(common_name, organization, names).as_bytes()).unwrap()
    }

    #[test]
    fn a_kubelets_client_certificate_names_its_node_and_nothing_else() {
        let usual = usages(&["key encipherment", "digital signature", "client auth"]);
        let ask = |r: &Requested, u: &[String]| r.is_kubelet_client(u).err().unwrap_or_default();
        let good = requested("system:node:a", NODES, &[]);
        assert_eq!(ask(&good, &usual), "");
        assert_eq!(ask(&good, &usages(&["client auth", "digital signature"])), "");
        let wrong = "usages did not match [client auth digital signature key encipherment]";
        assert_eq!(ask(&good, &usages(&["client auth"])), wrong);
        assert_eq!(ask(&good, &usages(&["client auth", "digital signature", "any"])), wrong);
        assert_eq!(ask(&requested("a", NODES, &[]), &usual), "subject common name does not begin with system:node:");
        let others = requested("system:node:a", "system:masters", &[]);
        assert_eq!(ask(&others, &usual), "subject organization is not system:nodes");
        let named = requested("system:node:a", NODES, &["a.example"]);
        assert_eq!(ask(&named, &usual), "DNS subjectAltNames are not allowed");
        let addressed = requested("system:node:a", NODES, &["10.0.0.1"]);
        assert_eq!(ask(&addressed, &usual), "IP subjectAltNames are not allowed");
    }

    #[test]
    fn a_kubelets_serving_certificate_has_names() {
        let usual = usages(&["digital signature", "key encipherment", "server auth"]);
        let good = requested("system:node:a", NODES, &["a", "10.0.0.1"]);
        assert_eq!(good.is_kubelet_serving(&usual), Ok(()));
        let none = requested("system:node:a", NODES, &[]);
        assert_eq!(none.is_kubelet_serving(&usual).unwrap_err(), "DNS or IP subjectAltName is required");
        let wrong = good.is_kubelet_serving(&usages(&["client auth"])).unwrap_err();
        assert_eq!(wrong, "usages did not match [digital signature key encipherment server auth]");
    }

    #[test]
    fn a_client_serves_nobody() {
        assert_eq!(are_of_client(&usages(&["client auth", "key encipherment"])), Ok(()));
        let said = |u: &[&str]| are_of_client(&usages(u)).unwrap_err();
        assert_eq!(said(&["client auth", "server auth"]), "invalid usage for client certificate: server auth");
        assert_eq!(said(&["digital signature"]), "missing required usage for client certificate: client auth");
        assert!(Requested::parse(b"x").unwrap_err().contains("CERTIFICATE REQUEST"));
    }
}
