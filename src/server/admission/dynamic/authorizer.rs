//! What expressions ask the authorizers.

use api::cel::authorizer::{Question, Questions, ResourceCheck, Target};

use crate::Server;
use crate::authz::Decision;
use crate::request::{RequestInfo, User};

/// Evaluates until all that was asked is answered. Each round answers what the one before asked;
/// what an expression may cost bounds them.
pub(crate) async fn answered<T>(server: &Server, user: &User, mut evaluate: impl FnMut(&Questions) -> T) -> T {
    let questions = Questions::default();
    loop {
        let result = evaluate(&questions);
        let open = questions.take_open();
        if open.is_empty() {
            return result;
        }
        for question in open {
            let decision = decide(server, user, &question).await;
            questions.answer(question, decision);
        }
    }
}

async fn decide(server: &Server, user: &User, question: &Question) -> api::cel::authorizer::Decision {
    let account = question.service_account.as_ref().map(|(namespace, name)| service_account(namespace, name));
    let answer = server.decide(account.as_ref().unwrap_or(user), &request(question)).await;
    let allowed = matches!(answer.decision, Decision::Allow(_));
    let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = answer.decision;
    api::cel::authorizer::Decision { allowed, reason, error: answer.error }
}

/// A service account as it is asked about: without a token it is in no other group.
fn service_account(namespace: &str, name: &str) -> User {
    let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    User { name: format!("system:serviceaccount:{namespace}:{name}"), groups, ..User::default() }
}

fn request(question: &Question) -> RequestInfo {
    let verb = question.verb.clone();
    match &question.target {
        Target::Path(path) => RequestInfo { verb, path: path.clone(), ..RequestInfo::default() },
        Target::Resource(ResourceCheck {
            group,
            resource,
            subresource,
            namespace,
            name,
            field_selector,
            label_selector,
        }) => RequestInfo {
            verb,
            is_resource: true,
            group: group.clone(),
            version: "*".to_owned(),
            resource: resource.clone(),
            subresource: subresource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            field_selector: field_selector.clone(),
            label_selector: label_selector.clone(),
            ..RequestInfo::default()
        },
    }
}
