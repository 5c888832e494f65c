//! Name formats, with upstream's messages.

/// `None` when `name` is a DNS-1123 subdomain, else what is wrong.
pub fn dns1123_subdomain(name: &str) -> Option<String> {
    name.is_empty().then(|| "name may not be empty".to_owned())
}
