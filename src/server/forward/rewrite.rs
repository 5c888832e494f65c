//! Redirects and pages of what stands behind a proxy path: what they point to on their own host is
//! made to point through the proxy (upstream: `k8s.io/apimachinery/pkg/util/proxy/transport.go`).

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http_body_util::BodyExt;

use crate::http::respond::{Reply, full};

/// Headers about origins, which are this server's to set.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// The attributes that hold links, by tag.
const LINKS: [(&str, &[&str]); 24] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
];
/// Elements whose content holds no tags.
const RAW: [&str; 8] = ["script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp"];

/// Where a proxied target is, on both sides.
pub(crate) struct Place<'a> {
    /// The proxy's path that stands before the target's own.
    pub(crate) prefix: &'a str,
    /// `host:port` of the target.
    pub(crate) target: &'a str,
    /// The host that the client has asked.
    pub(crate) asked: &'a str,
}

impl Place<'_> {
    /// A link of the target as the client must follow it.
    fn link(&self, link: &str) -> String {
        let (host, rest) = match link.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                split_host(rest)
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => split_host(rest),
                None => ("", link),
            },
        };
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, tail) = rest.split_at(end);
        let elsewhere = !host.is_empty() && host != self.target && host != self.asked;
        if elsewhere || !path.starts_with('/') {
            return link.to_owned();
        }
        // A link to the host that the client has asked stays one: this server does not know its scheme.
        let head = if host == self.asked { &link[..link.len() - rest.len()] } else { "" };
        if path.starts_with(self.prefix) {
            return format!("{head}{path}{tail}");
        }
        let slash = if path.ends_with('/') { "/" } else { "" };
        format!("{head}{}{slash}{tail}", cleaned(&format!("{}/{path}", self.prefix)))
    }
}

fn split_host(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// A path without empty segments, `.` and `..`.
fn cleaned(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

fn text(reply: &Reply, header: &HeaderName) -> String {
    reply.headers().get(header).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Makes an answer lead back through the proxy.
pub(crate) async fn answer(mut reply: Reply, place: &Place<'_>) -> Reply {
    for name in CORS {
        reply.headers_mut().remove(name);
    }
    if let Some(location) = reply.headers().get(LOCATION).and_then(|v| v.to_str().ok()) {
        if let Ok(rewritten) = HeaderValue::from_str(&place.link(location)) {
            reply.headers_mut().insert(LOCATION, rewritten);
        }
        return reply;
    }
    let (media, encoding) = (text(&reply, &CONTENT_TYPE), text(&reply, &CONTENT_ENCODING));
    let media = media.split(';').next().unwrap_or_default().trim();
    if media != "text/html" || !matches!(encoding.as_str(), "" | "gzip" | "deflate") {
        return reply;
    }
    let (mut parts, body) = reply.into_parts();
    let Ok(collected) = body.collect().await;
    let bytes = collected.to_bytes();
    let body = match page(&bytes, &encoding, place) {
        Ok(rewritten) => {
            parts.headers.remove(CONTENT_LENGTH);
            rewritten.into()
        }
        Err(e) => {
            tracing::debug!(error = %e, "a page cannot be read; its links stay as they are");
            bytes
        }
    };
    Reply::from_parts(parts, full(body))
}

fn page(bytes: &[u8], encoding: &str, place: &Place<'_>) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    match encoding {
        "gzip" => GzDecoder::new(bytes).read_to_end(&mut plain)?,
        "deflate" => DeflateDecoder::new(bytes).read_to_end(&mut plain)?,
        _ => {
            plain.extend_from_slice(bytes);
            bytes.len()
        }
    };
    let rewritten = html(&String::from_utf8_lossy(&plain), place);
    match encoding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(rewritten.as_bytes())?;
            encoder.finish()
        }
        "deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(rewritten.as_bytes())?;
            encoder.finish()
        }
        _ => Ok(rewritten.into_bytes()),
    }
}

/// Rewrites the links of a page and leaves everything else as it is.
fn html(page: &str, place: &Place<'_>) -> String {
    let mut out = String::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        if let Some(comment) = tag.strip_prefix("<!--") {
            let end = comment.find("-->").map_or(tag.len(), |e| e + 7);
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        if !tag[1..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            out.push('<');
            rest = &tag[1..];
            continue;
        }
        let end = tag_end(tag);
        let name_end = tag.find(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '/')).unwrap_or(end).min(end);
        let name = tag[1..name_end].to_ascii_lowercase();
        match LINKS.iter().find(|(n, _)| *n == name) {
            Some((_, links)) => {
                out.push_str(&tag[..name_end]);
                attributes(&tag[name_end..end], links, place, &mut out);
            }
            None => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
        if RAW.contains(&name.as_str()) {
            let close = format!("</{name}");
            let lower = rest.to_ascii_lowercase();
            let (raw, after) = rest.split_at(lower.find(&close).unwrap_or(rest.len()));
            out.push_str(raw);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The end of a tag, behind its `>`, which does not count within quotes.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (i, b) in tag.bytes().enumerate() {
        match (quote, b) {
            (None, b'>') => return i + 1,
            (None, b'"' | b'\'') => quote = Some(b),
            (Some(q), b) if q == b => quote = None,
            _ => {}
        }
    }
    tag.len()
}

fn attributes(text: &str, links: &[&str], place: &Place<'_>, out: &mut String) {
    let mut rest = text;
    loop {
        let start = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/').unwrap_or(rest.len());
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(rest.len());
        if end == 0 {
            // The end of the tag, or something that is no attribute.
            let Some(odd) = rest.chars().next() else { return };
            out.push(odd);
            rest = &rest[odd.len_utf8()..];
            continue;
        }
        let name = rest[..end].to_ascii_lowercase();
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        let after = rest.trim_ascii_start();
        let Some(value) = after.strip_prefix('=') else { continue };
        let value = value.trim_ascii_start();
        out.push('=');
        let (quote, value) = match value.chars().next() {
            Some(q @ ('"' | '\'')) => (Some(q), &value[1..]),
            _ => (None, value),
        };
        let end = match quote {
            Some(q) => value.find(q),
            None => value.find(|c: char| c.is_ascii_whitespace() || c == '>'),
        };
        let (value, tail) = value.split_at(end.unwrap_or(value.len()));
        let shown = if links.contains(&name.as_str()) { place.link(value) } else { value.to_owned() };
        match quote {
            Some(q) => {
                out.push(q);
                out.push_str(&shown);
                out.push(q);
                rest = tail.strip_prefix(q).unwrap_or(tail);
            }
            None => {
                out.push_str(&shown);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> =
        Place { prefix: "/api/v1/namespaces/n/services/s/proxy", target: "10.0.0.1:80", asked: "localhost:8001" };

    #[test]
    fn links_to_the_target_lead_through_the_proxy() {
        let p = PLACE.prefix;
        for (link, wanted) in [
            ("/a/b?c=d#e", format!("{p}/a/b?c=d#e")),
            ("/a/", format!("{p}/a/")),
            ("/", format!("{p}/")),
            ("a", "a".to_owned()),
            ("#x", "#x".to_owned()),
            ("http://10.0.0.1:80/a", format!("{p}/a")),
            ("http://localhost:8001/a", format!("http://localhost:8001{p}/a")),
            ("https://example.org/a", "https://example.org/a".to_owned()),
            ("//example.org/a", "//example.org/a".to_owned()),
            ("mailto:a@example.org", "mailto:a@example.org".to_owned()),
            (&format!("{p}/a"), format!("{p}/a")),
        ] {
            assert_eq!(PLACE.link(link), wanted, "{link}");
        }
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        let p = PLACE.prefix;
        let page = r#"<!DOCTYPE html><html><head><title><a href="/x"></title><LINK rel=x HREF='/s.css'></head>
<!-- <a href="/x"> --><body class="a>b"><a title=/t href = "/a/">1 < 2</a><img src=/i.png><br/>
<script src="/j.js">if (a < b) "<a href='/x'>"</script><a href="rel">r</a><p data-href="/x">"#;
        let wanted = format!(
            r#"<!DOCTYPE html><html><head><title><a href="/x"></title><LINK rel=x HREF='{p}/s.css'></head>
<!-- <a href="/x"> --><body class="a>b"><a title=/t href="{p}/a/">1 < 2</a><img src={p}/i.png><br/>
<script src="{p}/j.js">if (a < b) "<a href='/x'>"</script><a href="rel">r</a><p data-href="/x">"#
        );
        assert_eq!(html(page, &PLACE), wanted);
        let packed = {
            let mut e = GzEncoder::new(Vec::new(), Compression::default());
            e.write_all(page.as_bytes()).unwrap();
            e.finish().unwrap()
        };
        let mut unpacked = String::new();
        let rewritten = self::page(&packed, "gzip", &PLACE).unwrap();
        GzDecoder::new(&*rewritten).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, wanted);
    }
}
