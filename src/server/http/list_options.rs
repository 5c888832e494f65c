//! The options of lists and watches: read, checked as upstream checks them, and what they mean
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>).

use api::field::FieldError;
use api::{Resource, Status};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use store::Revision;

use crate::registry::{At, Page};
use crate::request::Query;

use super::watch::Start;

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    resource_version: String,
    version_match: String,
    limit: usize,
    continuing: String,
    send_initial_events: Option<bool>,
    /// Whether a watch is sent bookmarks.
    pub bookmarks: bool,
    /// How long a watch lasts at most.
    pub timeout_seconds: Option<u64>,
}

/// What a list shows.
#[derive(Debug)]
pub struct Position {
    /// The state.
    pub at: At,
    /// The key that it begins at, for all pages but the first.
    pub start: Option<String>,
    /// The most objects; 0 for all.
    pub limit: usize,
}

/// Upstream's continue token, as JSON in base64.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v", default)]
    version: String,
    /// -1 for the latest revision, whatever it is.
    #[serde(rename = "rv", default)]
    revision: i64,
    /// Below the prefix of what is listed.
    #[serde(default)]
    start: String,
}

impl Token {
    fn encoded(revision: i64, start: &str) -> String {
        let token = Token { version: TOKEN_VERSION.into(), revision, start: start.to_owned() };
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_string(&token).unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Token, Status> {
        let bad =
            |what: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {what}"));
        let raw = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|e| bad(&e.to_string()))?;
        let token: Token = serde_json::from_slice(&raw).map_err(|e| bad(&e.to_string()))?;
        if token.version != TOKEN_VERSION {
            return Err(bad(&format!("server does not recognize this encoded version {}", token.version)));
        }
        if token.revision == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        // A token made by hand must not reach what is above the prefix.
        let path = token.start.strip_prefix('/').unwrap_or(&token.start);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(&token.start));
        }
        Ok(token)
    }
}

impl ListOptions {
    /// Reads the query.
    ///
    /// # Errors
    /// 400 for numbers that are none, 422 for what does not fit together.
    pub fn parse(query: &Query, watch: bool) -> Result<ListOptions, Status> {
        let text = |name| query.get(name).unwrap_or_default().to_owned();
        let options = ListOptions {
            resource_version: text("resourceVersion"),
            version_match: text("resourceVersionMatch"),
            limit: usize::try_from(number(query, "limit")?.unwrap_or(0)).unwrap_or(0),
            continuing: text("continue"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: number(query, "timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()),
        };
        let errors = if watch { options.watch_errors() } else { options.list_errors() };
        if errors.is_empty() {
            return Ok(options);
        }
        Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }

    fn list_errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !self.version_match.is_empty() {
            if self.resource_version.is_empty() {
                errors.push(match_error("resourceVersionMatch is forbidden unless resourceVersion is provided"));
            }
            if !self.continuing.is_empty() {
                errors.push(match_error("resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(self.version_match.as_str(), EXACT | NOT_OLDER_THAN) {
                let supported = [EXACT, NOT_OLDER_THAN, ""];
                errors.push(FieldError::not_supported("resourceVersionMatch", self.version_match.as_str(), &supported));
            }
            if self.version_match == EXACT && self.resource_version == "0" {
                errors.push(match_error("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
            }
        }
        if self.send_initial_events.is_some() {
            errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        errors
    }

    fn watch_errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.send_initial_events.is_some() && self.version_match != NOT_OLDER_THAN {
            errors.push(match_error("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        }
        if !self.version_match.is_empty() {
            if self.send_initial_events.is_none() {
                errors.push(match_error(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if self.version_match != NOT_OLDER_THAN {
                let supported = [NOT_OLDER_THAN];
                errors.push(FieldError::not_supported("resourceVersionMatch", self.version_match.as_str(), &supported));
            }
            if !self.continuing.is_empty() {
                errors.push(match_error("resourceVersionMatch is forbidden when continue is provided"));
            }
        }
        errors
    }

    /// What a list of these options shows. `prefix` is that of the keys of all that it selects.
    ///
    /// # Errors
    /// 400 for a token or a revision that is none.
    pub fn position(&self, prefix: &str) -> Result<Position, Status> {
        if !self.continuing.is_empty() {
            let token = Token::parse(&self.continuing)?;
            if !matches!(self.resource_version.as_str(), "" | "0") {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let at = u64::try_from(token.revision).map_or(At::Consistent, At::Exact);
            let start = format!("{prefix}{}", token.start.strip_prefix('/').unwrap_or(&token.start));
            return Ok(Position { at, start: Some(start), limit: self.limit });
        }
        let revision = parse_revision(&self.resource_version)
            .map_err(|e| Status::bad_request(format!("invalid resource version: {e}")))?;
        let at = match (revision, self.version_match.as_str()) {
            (_, _) if self.resource_version.is_empty() => At::Consistent,
            (0, _) => At::Any,
            (r, EXACT) => At::Exact(r),
            // The old way to page at a revision.
            (r, "") if self.limit > 0 => At::Exact(r),
            (r, _) => At::NotOlderThan(r),
        };
        // Whatever is at hand is given whole.
        let limit = if self.resource_version == "0" { 0 } else { self.limit };
        Ok(Position { at, start: None, limit })
    }

    /// Where a watch of these options starts.
    ///
    /// # Errors
    /// 422 for a revision that is none.
    pub fn start(&self, resource: &Resource) -> Result<Start, Status> {
        let after = parse_revision(&self.resource_version)
            .map_err(|e| Status::invalid(&resource.group, &resource.plural, "", &vec![e]))?;
        let initial = self.send_initial_events.unwrap_or(after == 0);
        Ok(Start { after, initial, mark_end: initial && self.bookmarks })
    }
}

/// What a get asks for.
///
/// # Errors
/// 400 for a revision that is none.
pub fn get_position(query: &Query) -> Result<At, Status> {
    let text = query.get("resourceVersion").unwrap_or_default();
    let revision = parse_revision(text).map_err(|e| Status::bad_request(format!("invalid resource version: {e}")))?;
    Ok(match revision {
        _ if text.is_empty() => At::Consistent,
        0 => At::Any,
        r => At::NotOlderThan(r),
    })
}

/// The token for the page after one.
pub fn continue_token(page: &Page, prefix: &str) -> String {
    page.next.as_ref().map(|last| Token::encoded(page.revision as i64, &below(last, prefix))).unwrap_or_default()
}

/// The key behind one, below the prefix.
fn below(last: &str, prefix: &str) -> String {
    format!("{}\0", last.strip_prefix(prefix).unwrap_or(last))
}

/// What upstream says of a list whose revision is gone: a continued one can go on at the latest.
pub fn gone(status: Status, position: &Position, prefix: &str) -> Status {
    let Some(start) = position.start.as_deref().filter(|_| status.is_gone()) else {
        if status.is_gone() {
            return Status::expired("The resourceVersion for the provided list is too old.");
        }
        return status;
    };
    let mut s = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the \
         list.",
    );
    s.continue_token = Token::encoded(-1, start.strip_prefix(prefix).unwrap_or(start));
    s
}

fn match_error(detail: &str) -> FieldError {
    FieldError::forbidden("resourceVersionMatch", detail)
}

/// In Go's words, where they are none.
fn parse_revision(text: &str) -> Result<Revision, FieldError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| FieldError::invalid("resourceVersion", text, not_a_number("ParseUint", text)))
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    let parse = |s: &str| s.parse().map_err(|_| Status::bad_request(not_a_number("ParseInt", s)));
    query.get(name).map(parse).transpose()
}

fn not_a_number(function: &str, text: &str) -> String {
    let digits = text.strip_prefix('-').filter(|_| function == "ParseInt").unwrap_or(text);
    let range = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let what = if range { "value out of range" } else { "invalid syntax" };
    format!("strconv.{function}: parsing {text:?}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str, watch: bool) -> Result<ListOptions, Status> {
        ListOptions::parse(&Query::parse(query), watch)
    }

    fn at(query: &str) -> (At, usize) {
        let p = options(query, false).unwrap().position("").unwrap();
        (p.at, p.limit)
    }

    #[test]
    fn versions_and_matches_mean_what_they_mean_upstream() {
        assert_eq!(at(""), (At::Consistent, 0));
        assert_eq!(at("limit=5"), (At::Consistent, 5));
        assert_eq!(at("resourceVersion=0&limit=5"), (At::Any, 0));
        assert_eq!(at("resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=5"), (At::Any, 0));
        assert_eq!(at("resourceVersion=7"), (At::NotOlderThan(7), 0));
        assert_eq!(at("resourceVersion=7&limit=5"), (At::Exact(7), 5));
        assert_eq!(at("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=5"), (At::NotOlderThan(7), 5));
        assert_eq!(at("resourceVersion=7&resourceVersionMatch=Exact"), (At::Exact(7), 0));
    }

    #[test]
    fn options_that_do_not_fit_together_are_refused_in_upstreams_words() {
        for (query, watch, message) in [
            (
                "resourceVersionMatch=Exact",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "resourceVersionMatch=Other&resourceVersion=1",
                false,
                "resourceVersionMatch: Unsupported value: \"Other\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            ("sendInitialEvents=true", false, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
            (
                "sendInitialEvents=true",
                true,
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "resourceVersionMatch=NotOlderThan",
                true,
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ] {
            let s = options(query, watch).unwrap_err();
            assert_eq!((s.code, s.message), (422, format!("ListOptions.meta.k8s.io \"\" is invalid: {message}")));
        }
        let s = options("limit=x", false).unwrap_err();
        assert_eq!((s.code, s.message.as_str()), (400, "strconv.ParseInt: parsing \"x\": invalid syntax"));
        let s = options("resourceVersion=x", false).unwrap().position("").unwrap_err();
        assert_eq!(
            s.message,
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn a_token_goes_on_behind_the_last_key_and_nowhere_else() {
        let page = Page { items: Vec::new(), revision: 9, next: Some("ns/b".into()), remaining: None };
        let token = continue_token(&page, "ns/");
        let p = options(&format!("continue={token}&limit=2"), false).unwrap().position("ns/").unwrap();
        assert_eq!((p.at, p.start.as_deref(), p.limit), (At::Exact(9), Some("ns/b\0"), 2));
        let s = gone(Status::expired("x"), &p, "ns/");
        let p = options(&format!("continue={}", s.continue_token), false).unwrap().position("ns/").unwrap();
        assert_eq!((p.at, p.start.as_deref()), (At::Consistent, Some("ns/b\0")));
        for bad in ["%", "e30", &Token::encoded(3, "../a"), &Token::encoded(0, "a"), &Token::encoded(3, "")] {
            let s = options(&format!("continue={bad}"), false).unwrap().position("").unwrap_err();
            assert!(s.code == 400 && s.message.starts_with("invalid continue token: continue key is not valid"), "{s}");
        }
        let both = format!("continue={token}&resourceVersion=3");
        let s = options(&both, false).unwrap().position("ns/").unwrap_err();
        assert_eq!(s.message, "specifying resource version is not allowed when using continue");
    }

    #[test]
    fn a_watch_from_no_revision_starts_with_the_objects() {
        let pods = api::registry::builtin().into_iter().find(|r| r.plural == "pods").unwrap();
        let start = |q: &str| options(q, true).unwrap().start(&pods);
        assert_eq!(start("").unwrap(), Start { after: 0, initial: true, mark_end: false });
        assert!(start("allowWatchBookmarks=1&resourceVersion=0").unwrap().mark_end);
        assert_eq!(start("resourceVersion=5").unwrap(), Start { after: 5, initial: false, mark_end: false });
        let listing =
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=5&allowWatchBookmarks=1";
        assert_eq!(start(listing).unwrap(), Start { after: 5, initial: true, mark_end: true });
        let live = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        assert_eq!(start(live).unwrap(), Start { after: 0, initial: false, mark_end: false });
        assert_eq!(start("resourceVersion=x").unwrap_err().code, 422);
    }
}
