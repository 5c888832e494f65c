//! Name formats, with upstream's messages (`k8s.io/apimachinery/pkg/util/validation`).
//!
//! Each check answers `None` for a good value, else what is wrong with it.

use rand::Rng;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const GENERATED_PREFIX_MAX: usize = 58;
const GENERATED_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Upstream's `MaxLenError`.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Upstream's `RegexError`.
fn form_error(message: &str, form: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{form}')");
    }
    let list: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    format!("{message} (e.g. {}, regex used for validation is '{form}')", list.join(",  or "))
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    b.first().is_some_and(edge) && b.last().is_some_and(edge) && b.iter().all(|c| edge(c) || *c == b'-')
}

fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}

fn is_qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn joined(errors: Vec<String>) -> Option<String> {
    match errors.len() {
        0 => None,
        _ => Some(errors.join(", ")),
    }
}

/// All that is wrong with a DNS-1123 label.
pub fn dns1123_label_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !is_label(name) {
        errors.push(if is_subdomain(name) {
            // A label that only dots spoil is told so.
            "must not contain dots".to_owned()
        } else {
            form_error(LABEL_MESSAGE, LABEL_FORM, &["my-name", "123-abc"])
        });
    }
    errors
}

/// A DNS-1123 label: namespaces, container names.
pub fn dns1123_label(name: &str) -> Option<String> {
    joined(dns1123_label_errors(name))
}

/// All that is wrong with a DNS-1123 subdomain.
pub fn dns1123_subdomain_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !is_subdomain(name) {
        let form = format!("{LABEL_FORM}(\\.{LABEL_FORM})*");
        errors.push(form_error(SUBDOMAIN_MESSAGE, &form, &["example.com"]));
    }
    errors
}

/// A DNS-1123 subdomain: the names of most objects.
pub fn dns1123_subdomain(name: &str) -> Option<String> {
    joined(dns1123_subdomain_errors(name))
}

/// A DNS-1035 label: services.
pub fn dns1035_label(name: &str) -> Option<String> {
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !(is_label(name) && name.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(form_error(LABEL_1035_MESSAGE, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    joined(errors)
}

/// A wildcard DNS-1123 subdomain, such as `*.example.com`: ingress hosts.
pub fn wildcard_dns1123_subdomain(name: &str) -> Option<String> {
    let mut errors = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !name.strip_prefix("*.").is_some_and(is_subdomain) {
        let form = format!("\\*\\.{LABEL_FORM}(\\.{LABEL_FORM})*");
        errors.push(form_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &form,
            &["*.example.com"],
        ));
    }
    joined(errors)
}

/// All that is wrong with a qualified name (`example.com/My-Name`): label and annotation keys.
pub fn qualified_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let form_hint = |message: &str| form_error(message, QUALIFIED_FORM, &["MyName", "my.name", "123-abc"]);
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain_errors(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let hint = form_error(QUALIFIED_MESSAGE, QUALIFIED_FORM, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {hint} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len_error(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", form_hint(QUALIFIED_MESSAGE)));
    }
    errors
}

/// A qualified name: label and annotation keys, resource names.
pub fn qualified_name(value: &str) -> Option<String> {
    joined(qualified_name_errors(value))
}

/// All that is wrong with a label value.
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push(form_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A label value.
pub fn label_value(value: &str) -> Option<String> {
    joined(label_value_errors(value))
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Option<String> {
    let b = value.as_bytes();
    let good = b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_')
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_');
    (!good).then(|| {
        form_error(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )
    })
}

/// The name of an environment variable: any printable ASCII but `=` (the rule since v1.34).
pub fn env_var_name(value: &str) -> Option<String> {
    let good = !value.is_empty() && value.bytes().all(|c| (0x20..=0x7e).contains(&c) && c != b'=');
    (!good).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()
    })
}

/// The name of a port: an IANA service name.
pub fn port_name(value: &str) -> Option<String> {
    joined(port_name_errors(value))
}

/// All that is wrong with the name of a port.
pub fn port_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(max_len_error(15));
    }
    if !value.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') || value.is_empty() {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The number of a port.
pub fn port_number(value: i64) -> Option<String> {
    (!(1..=65535).contains(&value)).then(|| "must be between 1 and 65535, inclusive".to_owned())
}

/// A name that is safe as one segment of a URL path: RBAC objects.
pub fn path_segment_name(name: &str) -> Option<String> {
    if name == "." || name == ".." {
        return Some(format!("may not be '{name}'"));
    }
    joined(["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect())
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(key: &str) -> Option<String> {
    let mut errors = Vec::new();
    if key.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        errors.push(form_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    joined(errors)
}

/// An IPv4 or IPv6 address.
pub fn ip(value: &str) -> Option<String> {
    value
        .parse::<std::net::IpAddr>()
        .is_err()
        .then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
}

/// A CIDR block.
pub fn cidr(value: &str) -> Option<String> {
    value
        .parse::<ipnet::IpNet>()
        .is_err()
        .then(|| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

/// An absolute path.
pub fn absolute_path(value: &str) -> Option<String> {
    (!value.starts_with('/')).then(|| "must be an absolute path".to_owned())
}

/// A path without `..` in it.
pub fn no_backsteps(value: &str) -> Option<String> {
    value.split('/').any(|part| part == "..").then(|| "must not contain '..'".to_owned())
}

/// A relative path that stays below where it starts.
pub fn local_descending_path(value: &str) -> Option<String> {
    if value.starts_with('/') {
        return Some("must be a relative path".to_owned());
    }
    no_backsteps(value)
}

/// A name for `generateName`: the prefix, cut so that all fits a label, and five random characters.
pub fn generate(prefix: &str) -> String {
    let mut end = prefix.len().min(GENERATED_PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], random_suffix(5))
}

/// Random characters of upstream's alphabet, which spells no words.
pub fn random_suffix(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(GENERATED_ALPHABET[rng.random_range(0..GENERATED_ALPHABET.len())])).collect()
}

/// Upstream's `NameIsDNSSubdomain(name, prefix=true)`: what a `generateName` prefix is checked as.
pub fn mask_trailing_dash(prefix: &str) -> String {
    if prefix.len() > 1 && prefix.ends_with('-') {
        format!("{}a", &prefix[..prefix.len() - 1])
    } else {
        prefix.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains() {
        for good in ["a", "a.b", "a-b.c", "0"] {
            assert_eq!(dns1123_subdomain(good), None, "{good}");
        }
        assert_eq!(
            dns1123_subdomain("A_b").unwrap(),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        for bad in ["", "-a", "a-", "a..b", ".a", "a."] {
            assert!(dns1123_subdomain(bad).is_some(), "{bad}");
        }
        assert_eq!(dns1123_subdomain(&"a".repeat(254)).unwrap(), "must be no more than 253 bytes");
    }

    #[test]
    fn labels() {
        assert_eq!(dns1123_label("a-1"), None);
        assert_eq!(dns1123_label("a.b").unwrap(), "must not contain dots");
        assert!(dns1035_label("1a").unwrap().contains("(e.g. 'my-name',  or 'abc-123', regex used"));
        assert!(dns1035_label("").is_some());
    }

    #[test]
    fn qualified_names() {
        for good in ["a", "A_b.c", "example.com/x", "1"] {
            assert_eq!(qualified_name(good), None, "{good}");
        }
        assert!(qualified_name("a/b/c").unwrap().starts_with("a qualified name must consist of"));
        assert_eq!(qualified_name("/a").unwrap(), "prefix part must be non-empty");
        assert!(qualified_name("").unwrap().starts_with("name part must be non-empty, name part must consist"));
        assert_eq!(label_value(""), None);
        assert!(label_value("-a").is_some());
    }

    #[test]
    fn small_formats() {
        assert_eq!(port_name("http"), None);
        assert_eq!(port_name("80").unwrap(), "must contain at least one letter (a-z)");
        assert_eq!(config_map_key("a.b_c-D"), None);
        assert!(config_map_key("..a").is_some() && config_map_key("a/b").is_some());
        assert_eq!(path_segment_name("system:node"), None);
        assert_eq!(path_segment_name("a/b").unwrap(), "may not contain '/'");
        assert!(ip("1.2.3").is_some() && ip("::1").is_none());
        assert!(env_var_name("A=B").is_some() && env_var_name("my.var").is_none());
        assert!(local_descending_path("a/../b").is_some() && local_descending_path("a/b").is_none());
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert_eq!(dns1123_label(&name), None);
        assert!(generate("web-").starts_with("web-"));
    }
}
