//! ConversionReview: what a webhook is asked, and what it may answer
//! (upstream: `apiextensions-apiserver/pkg/apiserver/conversion`).

use api::Status;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const GROUP: &str = "apiextensions.k8s.io";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Answer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Answer {
    uid: String,
    converted_objects: Vec<Value>,
    result: Outcome,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Outcome {
    status: String,
    message: String,
}

/// An error that, as upstream's, has a message and no reason.
pub(super) fn failure(message: String) -> Status {
    Status::new(500, "", message)
}

/// `group/version, Kind=kind`
pub(super) fn kind_of(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    spelled(text("apiVersion"), text("kind"))
}

fn spelled(api_version: &str, kind: &str) -> String {
    // A version without a group is shown after an empty one.
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

/// The form of the review and the body of a call.
pub(super) fn question(
    versions: &[String],
    to: &str,
    objects: &[Value],
    uid: &str,
) -> Result<(&'static str, Bytes), Status> {
    let known = versions.iter().find_map(|v| ["v1", "v1beta1"].into_iter().find(|k| k == v));
    let version = known.ok_or_else(|| failure("no supported conversion review versions".to_owned()))?;
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
    });
    Ok((version, review.to_string().into()))
}

/// What the webhook made of the objects.
pub(super) fn answer(body: &[u8], version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let review: Review = serde_json::from_slice(body).map_err(|e| format!("it is not a ConversionReview: {e}"))?;
    if version == "v1" {
        let wanted = format!("{GROUP}/{version}");
        if review.kind != "ConversionReview" || review.api_version != wanted {
            let (wanted, got) = (spelled(&wanted, "ConversionReview"), spelled(&review.api_version, &review.kind));
            return Err(format!("expected webhook response of {wanted}, got {got}"));
        }
    }
    let response = review.response.ok_or("no response provided")?;
    if version == "v1" && response.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    match response.result {
        Outcome { status, .. } if status == "Success" => Ok(response.converted_objects),
        Outcome { message, .. } if !message.is_empty() => Err(message),
        Outcome { status, .. } => Err(format!("response.result.status was '{status}', not 'Success'")),
    }
}

/// The converted objects, if they are what was asked for, with the metadata that they had: only
/// labels and annotations may change.
pub(super) fn check(what: &str, to: &str, asked: &[Value], mut converted: Vec<Value>) -> Result<Vec<Value>, Status> {
    if converted.len() != asked.len() {
        return Err(failure(format!(
            "conversion webhook for {what} returned {} objects, expected {}",
            converted.len(),
            asked.len()
        )));
    }
    let many = asked.len() > 1;
    for (i, (old, new)) in asked.iter().zip(&mut converted).enumerate() {
        let object = if many { format!("converted object at index {i}") } else { "object".to_owned() };
        let indexed = if many { object.clone() } else { format!("object at index {i}") };
        let invalid = |object: &str, why: String| {
            failure(format!("conversion webhook for {what} returned invalid {object}: {why}"))
        };
        let text = |o: &Value, pointer: &str| o.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if new["apiVersion"] != to {
            let got = text(new, "/apiVersion");
            return Err(invalid(&indexed, format!("invalid groupVersion (expected {to}, received {got})")));
        }
        if new["kind"] != old["kind"] {
            let (expected, got) = (text(old, "/kind"), text(new, "/kind"));
            return Err(invalid(&indexed, format!("invalid kind (expected {expected}, received {got})")));
        }
        for (field, pointer) in
            [("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")]
        {
            let (expected, got) = (text(old, pointer), text(new, pointer));
            if expected != got {
                return Err(invalid(&object, format!("must have the same {field}: {expected} != {got}")));
            }
        }
        let place = if many { format!("metadata in object at index {i}") } else { "metadata".to_owned() };
        restore(old, new).map_err(|why| invalid(&place, why))?;
    }
    Ok(converted)
}

/// Go's name of a type, as messages show it.
fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Gives a converted object the metadata of the original, but for labels and annotations.
fn restore(original: &Value, converted: &mut Value) -> Result<(), String> {
    let said = match converted.get_mut("metadata") {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(m)) => std::mem::take(m),
        Some(other) => return Err(format!("invalid metadata of type {} in converted object", type_of(other))),
    };
    let mut kept = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match said.get(field) {
            None | Some(Value::Null) => {
                kept.remove(field);
            }
            Some(Value::Object(new)) => {
                strings(field, new, kept.get(field))?;
                kept.insert(field.to_owned(), Value::Object(new.clone()));
            }
            Some(other) => {
                return Err(format!("invalid metadata.{field} of type {} in converted object", type_of(other)));
            }
        }
    }
    converted["metadata"] = Value::Object(kept);
    Ok(())
}

/// Checks labels or annotations; those that have not changed may be what they were.
fn strings(field: &str, new: &Map<String, Value>, old: Option<&Value>) -> Result<(), String> {
    for (k, v) in new {
        if !v.is_string() {
            return Err(format!("metadata.{field}[{k}] must be a string, but is {} in converted object", type_of(v)));
        }
    }
    if old.and_then(Value::as_object) == Some(new) {
        return Ok(());
    }
    let value = Value::Object(new.clone());
    let errors = match field {
        "labels" => api::metadata::validate_labels(&value, "metadata.labels"),
        _ => api::metadata::validate_annotations(&value, "metadata.annotation"),
    };
    match errors.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": version, "kind": "Widget", "metadata": {"name": "a", "namespace": "n", "uid": "u",
            "resourceVersion": "3", "labels": {"l": "1"}}})
    }

    #[test]
    fn an_answer_must_be_to_the_question_and_a_success() {
        let said = |api_version: &str, response: Value| {
            let review = json!({"kind": "ConversionReview", "apiVersion": api_version, "response": response});
            answer(review.to_string().as_bytes(), "v1", "u").unwrap_err()
        };
        let v1 = "apiextensions.k8s.io/v1";
        assert_eq!(
            said("apiextensions.k8s.io/v1beta1", Value::Null),
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, \
             got apiextensions.k8s.io/v1beta1, Kind=ConversionReview"
        );
        assert_eq!(said(v1, Value::Null), "no response provided");
        assert_eq!(said(v1, json!({"uid": "x"})), "expected response.uid=\"u\", got \"x\"");
        assert_eq!(said(v1, json!({"uid": "u"})), "response.result.status was '', not 'Success'");
        assert_eq!(said(v1, json!({"uid": "u", "result": {"status": "Failure", "message": "no"}})), "no");
        let old = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [{}]}}).to_string();
        assert_eq!(answer(old.as_bytes(), "v1beta1", "u"), Ok(vec![json!({})]), "the old form says less");
    }

    #[test]
    fn only_labels_and_annotations_may_change_in_metadata() {
        let old = object("g/v1");
        let wrong = |change: &dyn Fn(&mut Value)| {
            let mut new = object("g/v2");
            change(&mut new);
            check("g/v1, Kind=Widget", "g/v2", std::slice::from_ref(&old), vec![new]).map_err(|s| s.message)
        };
        let mut good = wrong(&|o| {
            o["metadata"]["resourceVersion"] = "9".into();
            o["metadata"]["labels"] = json!({"l": "2"});
        })
        .unwrap();
        assert_eq!(good[0]["metadata"]["resourceVersion"].take(), "3");
        assert_eq!(good[0]["metadata"]["labels"], json!({"l": "2"}));
        let invalid = "conversion webhook for g/v1, Kind=Widget returned invalid";
        for (change, said) in [
            (json!({"apiVersion": "g/v3"}), "object at index 0: invalid groupVersion (expected g/v2, received g/v3)"),
            (json!({"kind": "Other"}), "object at index 0: invalid kind (expected Widget, received Other)"),
            (json!({"metadata": {"name": "b"}}), "object: must have the same name: a != b"),
            (json!({"metadata": {"uid": "w"}}), "object: must have the same UID: u != w"),
            (
                json!({"metadata": {"labels": {"l": 1}}}),
                "metadata: metadata.labels[l] must be a string, but is int64 in converted object",
            ),
        ] {
            let told = wrong(&|o| *o = api::patch::merge(o, &change)).unwrap_err();
            assert_eq!(told, format!("{invalid} {said}"));
        }
        let fewer = check("k", "g/v2", &[old], Vec::new()).unwrap_err().message;
        assert_eq!(fewer, "conversion webhook for k returned 0 objects, expected 1");
    }
}
