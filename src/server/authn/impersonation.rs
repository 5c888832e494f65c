//! Acting as somebody else, by `Impersonate-*` headers
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).
//! Each part of who one wants to be is authorized by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use http::HeaderMap;
use http::request::Parts;

use crate::Server;
use crate::request::{RequestInfo, User, decode};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Who acts as somebody else, placed in the request's extensions.
#[derive(Clone, Debug)]
pub struct Impersonator(pub User);

/// Who asked to act as somebody else and may not, placed in the request's extensions.
#[derive(Clone, Debug)]
pub struct NotAllowed(pub User);

/// The values of a header.
pub(super) fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
}

/// Further attributes of a user, in headers that begin with a prefix. Their keys are
/// percent-encoded, and lower-case as header names are.
pub(super) fn extra_of(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut extra = BTreeMap::new();
    for name in headers.keys() {
        let rest = name.as_str().get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
        if rest.is_some() {
            extra.insert(decode(&name.as_str()[prefix.len()..]), texts(headers, name.as_str()));
        }
    }
    extra
}

/// `system:serviceaccount:<namespace>:<name>` in its parts.
fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = api::names::dns1123_label(namespace).is_none() && api::names::dns1123_subdomain(account).is_none();
    valid.then_some((namespace, account))
}

/// The user that the headers ask for, with what must be authorized for it.
fn wanted(headers: &HeaderMap) -> Result<Option<(User, Vec<RequestInfo>)>, String> {
    let first = |name: &str| texts(headers, name).into_iter().next().unwrap_or_default();
    let (name, uid, mut groups) = (first(USER), first(UID), texts(headers, GROUP));
    let extra = extra_of(headers, EXTRA_PREFIX);
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        // As Go prints upstream's list of object references.
        let reference =
            |kind: &str, name: &str, version: &str, key: &str| format!("{{{kind}  {name}  {version}  {key}}}");
        let mut all: Vec<String> = groups.iter().map(|g| reference("Group", g, "", "")).collect();
        let version = format!("{AUTHENTICATION}/v1");
        for (key, values) in &extra {
            all.extend(values.iter().map(|v| reference("UserExtra", v, &version, key)));
        }
        if !uid.is_empty() {
            all.push(reference("UID", &uid, &version, ""));
        }
        return Err(format!("requested [{}] without impersonating a user", all.join(" ")));
    }
    let ask = |group: &str, resource: &str, name: &str| RequestInfo {
        verb: "impersonate".into(),
        is_resource: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        name: name.into(),
        ..Default::default()
    };
    let account = service_account(&name);
    let mut questions = vec![match account {
        Some((namespace, account)) => {
            RequestInfo { namespace: namespace.into(), ..ask("", "serviceaccounts", account) }
        }
        None => ask("", "users", &name),
    }];
    questions.extend(groups.iter().map(|g| ask("", "groups", g)));
    for (key, values) in &extra {
        let one = |v: &String| RequestInfo { subresource: key.clone(), ..ask(AUTHENTICATION, "userextras", v) };
        questions.extend(values.iter().map(one));
    }
    if !uid.is_empty() {
        questions.push(ask(AUTHENTICATION, "uids", &uid));
    }
    if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    add_everybody(&name, &mut groups);
    Ok(Some((User { name, uid, groups, extra }, questions)))
}

/// The groups of all who are known, or unknown, unless they were asked for.
fn add_everybody(name: &str, groups: &mut Vec<String>) {
    let (known, unknown) = ("system:authenticated".to_owned(), "system:unauthenticated".to_owned());
    if name == "system:anonymous" {
        if !groups.contains(&unknown) {
            groups.push(unknown);
        }
    } else if !groups.contains(&known) && !groups.contains(&unknown) {
        groups.push(known);
    }
}

/// Whom a request acts as: the user that its headers ask for, else who makes it. The headers are
/// taken off, and [`Impersonator`] says who it was.
///
/// # Errors
/// 403 for those who may not, 500 (as upstream) for headers that name no user.
pub(super) async fn apply(server: &Arc<Server>, user: User, parts: &mut Parts) -> Result<User, Status> {
    if !parts.headers.keys().any(|n| n.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let acting = act_as(server, user.clone(), parts).await;
    if acting.is_err() {
        parts.extensions.insert(NotAllowed(user));
    }
    acting
}

async fn act_as(server: &Arc<Server>, user: User, parts: &mut Parts) -> Result<User, Status> {
    let wanted = wanted(&parts.headers)
        .map_err(|e| Status::internal_plain(format!("Internal Server Error: {:?}: {e}", parts.uri.to_string())))?;
    let Some((other, questions)) = wanted else { return Ok(user) };
    for question in &questions {
        server.authorize(&user, question).await?;
    }
    let shown: Vec<_> = parts.headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in shown {
        parts.headers.remove(name);
    }
    parts.extensions.insert(Impersonator(user));
    Ok(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn user(list: &[(&'static str, &str)]) -> User {
        wanted(&headers(list)).unwrap().unwrap().0
    }

    #[test]
    fn groups_follow_from_the_name_unless_they_are_given() {
        assert_eq!(user(&[(USER, "ann")]).groups, ["system:authenticated"]);
        assert_eq!(user(&[(USER, "ann"), (GROUP, "a")]).groups, ["a", "system:authenticated"]);
        let unknown = user(&[(USER, "ann"), (GROUP, "system:unauthenticated")]);
        assert_eq!(unknown.groups, ["system:unauthenticated"]);
        assert_eq!(user(&[(USER, "system:anonymous")]).groups, ["system:unauthenticated"]);
        let account = user(&[(USER, "system:serviceaccount:a:b")]);
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
        let account = user(&[(USER, "system:serviceaccount:a:b"), (GROUP, "x")]);
        assert_eq!(account.groups, ["x", "system:authenticated"]);
    }

    #[test]
    fn every_part_is_authorized_by_itself() {
        let list = [
            (USER, "system:serviceaccount:a:b"),
            (GROUP, "g"),
            (UID, "u"),
            ("impersonate-extra-acme.com%2fproject", "p"),
            ("impersonate-extra-acme.com%2fproject", "q"),
        ];
        let (user, questions) = wanted(&headers(&list)).unwrap().unwrap();
        assert_eq!(user.extra["acme.com/project"], ["p", "q"]);
        assert_eq!(user.uid, "u");
        let asked: Vec<String> = questions
            .iter()
            .map(|q| format!("{}/{}/{}/{}/{}", q.group, q.resource, q.subresource, q.namespace, q.name))
            .collect();
        assert_eq!(
            asked,
            [
                "/serviceaccounts//a/b",
                "/groups///g",
                "authentication.k8s.io/userextras/acme.com/project//p",
                "authentication.k8s.io/userextras/acme.com/project//q",
                "authentication.k8s.io/uids///u",
            ]
        );
        let (_, questions) = wanted(&headers(&[(USER, "system:serviceaccount:A:b")])).unwrap().unwrap();
        assert_eq!(questions[0].resource, "users", "that is no service account's name");
    }

    #[test]
    fn nobody_is_only_a_group() {
        assert!(wanted(&headers(&[("accept", "x")])).unwrap().is_none());
        let said = wanted(&headers(&[(GROUP, "g")])).unwrap_err();
        assert_eq!(said, "requested [{Group  g    }] without impersonating a user");
    }
}
