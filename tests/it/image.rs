//! The image of the tests: busybox alone, made here.

use std::path::Path;
use std::process::Command;

/// Its name.
pub const NAME: &str = "docker.io/library/sampan-test:1";

/// Writes a docker archive with one layer that holds busybox under the names of its commands.
pub fn write(path: &Path) {
    let dir = path.with_extension("dir");
    let run = |c: &mut Command| assert!(c.status().unwrap().success(), "{c:?}");
    std::fs::create_dir_all(dir.join("root/bin")).unwrap();
    std::fs::copy("/bin/busybox", dir.join("root/bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "httpd", "wget", "nslookup", "hostname", "ls", "id", "env", "nc", "stty", "tar",
        "rm",
    ] {
        std::os::unix::fs::symlink("busybox", dir.join("root/bin").join(name)).unwrap();
    }
    std::fs::create_dir(dir.join("root/tmp")).unwrap();
    let (root, layer) = (dir.join("root"), dir.join("layer.tar"));
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&layer).args(["bin", "tmp"]));
    let sum = Command::new("sha256sum").arg(&layer).output().unwrap().stdout;
    let digest = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#,
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{NAME}"],"Layers":["layer.tar"]}}]"#);
    std::fs::write(dir.join("manifest.json"), manifest).unwrap();
    let archive = path.with_extension("new");
    let files = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(&dir).arg("-cf").arg(&archive).args(files));
    std::fs::rename(&archive, path).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
