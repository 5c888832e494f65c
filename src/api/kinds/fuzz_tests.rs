//! Objects of every kind that nobody should send: whatever passes the decoder is judged, shown and
//! selected without a panic.

use fuzzing::cost;
use fuzzing::decoder::check;
use fuzzing::inputs::altered;
use serde_json::{Value, json};

use crate::testing::golden_of_resources;
use crate::{Resource, codec, resource};

fn decoded(resource: &Resource, tree: Value) -> Option<Value> {
    let mut object = codec::check(tree, &resource.schema).ok()?.value;
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if let Some(convert) = &resource.convert {
        convert.to_storage(resource, &mut object);
    }
    Some(object)
}

/// All that a strategy may be asked about an object and the one before it.
fn ask(resource: &Resource, new: &mut Value, old: &mut Value) {
    let s = &resource.strategy;
    s.default(new);
    let once = new.clone();
    s.default(new);
    assert_eq!(*new, once, "defaults change what has them already");
    s.default(old);
    let mut created = new.clone();
    s.prepare_create(&mut created);
    s.validate(&created);
    s.warnings(&created);
    let mut updated = new.clone();
    s.prepare_update(&mut updated, old);
    s.validate_changed(&updated, old);
    s.update_warnings(&updated, old);
    s.generation_changed(&updated, old);
    let mut status = new.clone();
    s.prepare_status(&mut status, old);
    s.validate_status(&status, old);
    for sub in &resource.subresources {
        if let resource::Subresource::Aspect(aspect) = sub {
            let mut part = new.clone();
            s.prepare_aspect(aspect, &mut part, old);
            s.validate_aspect(aspect, &part, old);
        }
    }
    s.cells(new, jiff::Timestamp::UNIX_EPOCH);
    for field in &resource.selectable_fields {
        s.field(new, field);
    }
    s.default_grace_seconds(new);
    s.holds_deletion(new);
    s.begin_deletion(&mut new.clone());
    crate::metadata::validate_object_meta_update(new, old);
    crate::metadata::validate_labels(&new["metadata"]["labels"], "metadata.labels");
    crate::metadata::validate_annotations(&new["metadata"]["annotations"], "metadata.annotations");
    if let Some(convert) = &resource.convert {
        convert.from_storage(&mut updated);
    }
}

#[test]
fn every_kind_is_judged_whatever_it_says() {
    for (resource, object) in golden_of_resources() {
        let strategy = (altered(vec![object.clone()]), altered(vec![object.clone()]));
        check(24, strategy, |(new, old)| {
            let (Some(mut new), Some(mut old)) = (decoded(&resource, new), decoded(&resource, old)) else { return };
            let held = cost::peak(|| ask(&resource, &mut new, &mut old));
            assert!(held < 32 << 20, "{held} bytes");
        });
    }
}
