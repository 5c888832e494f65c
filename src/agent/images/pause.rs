//! The sandbox image, made here so that no image is ever pulled to start a pod.
//!
//! It holds one file, `/pause`: a static program of a few dozen instructions without a libc.
//! As process 1 of a pod it blocks SIGINT, SIGTERM and SIGCHLD and waits for them
//! (a blocked signal is queued even for a process 1 that has no handler):
//!
//! ```text
//! rt_sigprocmask(SIG_BLOCK, &mask, NULL, 8)
//! loop {
//!     s = rt_sigtimedwait(&mask, NULL, NULL, 8)
//!     if s == SIGINT || s == SIGTERM { exit_group(0) }
//!     while wait4(-1, NULL, WNOHANG, NULL) > 0 {}        // reap orphans
//! }
//! ```

use super::oci::{Blob, Image};

/// The image's name. It has a domain, because containerd would prefix `docker.io/` to it otherwise.
pub const NAME: &str = "registry.sampan.local/pause:1";

/// x86-64. The mask is SIGINT (bit 1), SIGTERM (bit 14) and SIGCHLD (bit 16), kept on the stack.
#[rustfmt::skip]
const X86_64: &[u8] = &[
    0x68, 0x02, 0x40, 0x01, 0x00,             // 00: push $0x14002
    0x48, 0x89, 0xe6,                         // 05: mov  %rsp,%rsi
    0x31, 0xff,                               // 08: xor  %edi,%edi        SIG_BLOCK
    0x31, 0xd2,                               // 0a: xor  %edx,%edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 0c: mov  $8,%r10d
    0xb8, 0x0e, 0x00, 0x00, 0x00,             // 12: mov  $14,%eax         rt_sigprocmask
    0x0f, 0x05,                               // 17: syscall
    0x48, 0x89, 0xe7,                         // 19: mov  %rsp,%rdi        wait:
    0x31, 0xf6,                               // 1c: xor  %esi,%esi
    0x31, 0xd2,                               // 1e: xor  %edx,%edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 20: mov  $8,%r10d
    0xb8, 0x80, 0x00, 0x00, 0x00,             // 26: mov  $128,%eax        rt_sigtimedwait
    0x0f, 0x05,                               // 2b: syscall
    0x83, 0xf8, 0x02,                         // 2d: cmp  $2,%eax          SIGINT
    0x74, 0x23,                               // 30: je   exit
    0x83, 0xf8, 0x0f,                         // 32: cmp  $15,%eax         SIGTERM
    0x74, 0x1e,                               // 35: je   exit
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // 37: mov  $-1,%rdi         reap:
    0x31, 0xf6,                               // 3e: xor  %esi,%esi
    0xba, 0x01, 0x00, 0x00, 0x00,             // 40: mov  $1,%edx          WNOHANG
    0x45, 0x31, 0xd2,                         // 45: xor  %r10d,%r10d
    0xb8, 0x3d, 0x00, 0x00, 0x00,             // 48: mov  $61,%eax         wait4
    0x0f, 0x05,                               // 4d: syscall
    0x85, 0xc0,                               // 4f: test %eax,%eax
    0x7f, 0xe4,                               // 51: jg   reap
    0xeb, 0xc4,                               // 53: jmp  wait
    0x31, 0xff,                               // 55: xor  %edi,%edi        exit:
    0xb8, 0xe7, 0x00, 0x00, 0x00,             // 57: mov  $231,%eax        exit_group
    0x0f, 0x05,                               // 5c: syscall
];

/// The same for aarch64.
#[rustfmt::skip]
const AARCH64: &[u32] = &[
    0xd288_0049, // movz x9, #0x4002
    0xf2a0_0029, // movk x9, #1, lsl #16
    0xf81f_0fe9, // str  x9, [sp, #-16]!
    0xd280_0000, // mov  x0, #0             SIG_BLOCK
    0x9100_03e1, // mov  x1, sp
    0xd280_0002, // mov  x2, #0
    0xd280_0103, // mov  x3, #8
    0xd280_10e8, // mov  x8, #135           rt_sigprocmask
    0xd400_0001, // svc  #0
    0x9100_03e0, // mov  x0, sp             wait:
    0xd280_0001, // mov  x1, #0
    0xd280_0002, // mov  x2, #0
    0xd280_0103, // mov  x3, #8
    0xd280_1128, // mov  x8, #137           rt_sigtimedwait
    0xd400_0001, // svc  #0
    0x7100_081f, // cmp  w0, #2             SIGINT
    0x5400_0180, // b.eq exit
    0x7100_3c1f, // cmp  w0, #15            SIGTERM
    0x5400_0140, // b.eq exit
    0x9280_0000, // mov  x0, #-1            reap:
    0xd280_0001, // mov  x1, #0
    0xd280_0022, // mov  x2, #1             WNOHANG
    0xd280_0003, // mov  x3, #0
    0xd280_2088, // mov  x8, #260           wait4
    0xd400_0001, // svc  #0
    0x7100_001f, // cmp  w0, #0
    0x54ff_ff2c, // b.gt reap
    0x17ff_ffee, // b    wait
    0xd280_0000, // mov  x0, #0             exit:
    0xd280_0bc8, // mov  x8, #94            exit_group
    0xd400_0001, // svc  #0
];

/// Puts an ELF header and one loadable, executable segment before the code.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut out = Vec::with_capacity(size as usize);
    // e_ident: 64 bit, little endian, version 1, System V.
    out.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&(BASE + HEADERS).to_le_bytes()); // entry
    out.extend_from_slice(&64u64.to_le_bytes()); // program headers follow
    out.extend_from_slice(&0u64.to_le_bytes()); // no sections
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    out.extend_from_slice(&5u32.to_le_bytes()); // read, execute
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(code);
    out
}

/// The program for an architecture of Rust's `std::env::consts::ARCH`; `None` where we have none.
fn program(arch: &str) -> Option<Vec<u8>> {
    match arch {
        "x86_64" => Some(elf(62, X86_64)),
        "aarch64" => Some(elf(183, &AARCH64.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())),
        _ => None,
    }
}

/// The whole image.
///
/// # Errors
/// When there is no program for this machine's architecture.
pub fn image() -> Result<Image, super::Error> {
    let arch = std::env::consts::ARCH;
    let program = program(arch).ok_or_else(|| super::Error::Architecture(arch.to_owned()))?;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    builder.append_data(&mut header, "pause", program.as_slice()).map_err(super::Error::Archive)?;
    let layer = builder.into_inner().map_err(super::Error::Archive)?;
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", layer);
    let config = serde_json::json!({
        "architecture": super::oci::go_arch(), "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/pause"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    Ok(Image::of(NAME, &config, vec![layer]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_ends_on_sigterm() {
        use std::os::unix::fs::PermissionsExt;
        let Some(program) = program(std::env::consts::ARCH) else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        loop {
            // It waits in rt_sigtimedwait.
            let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            if call.starts_with("128 ") || call.starts_with("137 ") {
                break;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::yield_now();
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn the_image_is_the_same_every_time() {
        assert_eq!(image().unwrap().manifest.digest, image().unwrap().manifest.digest);
    }
}
