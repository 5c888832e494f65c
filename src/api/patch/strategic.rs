//! Strategic merge patch: `k8s.io/apimachinery/pkg/util/strategicpatch`.
//!
//! Maps are merged; lists are merged by their merge key where the schema has one and replaced
//! otherwise. Directives: `$patch: replace|delete` in maps and list items, `$retainKeys`,
//! `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::without_nulls;
use crate::printed::printed;
use crate::schema::TypeRef;
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of type `t`.
///
/// # Errors
/// 400, 422 or 500, as upstream answers directives that make no sense.
pub fn strategic(t: &TypeRef, current: &Value, patch: &Value) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(patch)) = (current, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    merge_map(original.clone(), patch.clone(), t).map(Value::Object)
}

fn bad_format(what: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {what}"))
}

/// What upstream does not classify it answers as 500 without a reason.
fn other_error(message: String) -> Status {
    Status::new(500, "", message)
}

fn unknown_directive(directive: &Value, map: &Object) -> Status {
    let text = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    other_error(format!("unknown patch type: {text} in map: {}", printed(&Value::Object(map.clone()))))
}

fn no_merge_key(map: &Object, key: &str) -> Status {
    other_error(format!("map: {} does not contain declared merge key: {key}", printed(&Value::Object(map.clone()))))
}

fn merge_map(mut original: Object, mut patch: Object, t: &TypeRef) -> Result<Object, Status> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, t)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, field, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = t.field(&key).unwrap_or_else(TypeRef::any);
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                if field.has_patch_strategy("replace") {
                    Some(Value::Object(new))
                } else {
                    Some(Value::Object(merge_map(old, new, &field)?))
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(merge_list_field(old, new, &field)?)),
            (_, new) => without_directives(without_nulls(new)),
        };
        if let Some(value) = merged {
            original.insert(key, value);
        }
    }
    Ok(original)
}

/// `$retainKeys`: only the fields listed survive, and the patch may name no others.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Status> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(bad_format("retainKeys")) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| keys.contains(key);
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !listed(key) {
            return Err(bad_format("retainKeys"));
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// `$setElementOrder/<field>`, together with the patch of the same field.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, t: &TypeRef) -> Result<(), Status> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad_format("setElementOrder list"));
        };
        let name = &directive[SET_ORDER.len()..];
        let field = t.field(name).unwrap_or_else(TypeRef::any);
        let key = field.patch_merge_key().unwrap_or_default();
        let old = list_at(original, name)?;
        let new = list_at(patch, name)?;
        if let Some(new) = &new {
            check_order(new, &order, key)?;
        }
        if [&old, &new].iter().all(|list| list.as_ref().is_none_or(Vec::is_empty)) && (old.is_some() || new.is_some()) {
            return Err(other_error("no elements in any of the given slices".to_owned()));
        }
        let merged = match (&old, new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            },
            (Some(old), Some(new)) => merge_list_field(old.clone(), new, &field)?,
        };
        patch.remove(name);
        let ordered = ordered(merged, &order, &old.unwrap_or_default(), key);
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The list at a field; null and absent are none.
fn list_at(map: &Object, name: &str) -> Result<Option<Vec<Value>>, Status> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.clone())),
        Some(_) => Err(bad_format("setElementOrder list")),
    }
}

/// The items of a patch list must occur in the order list, in the same order. Those that are
/// directives need not, unless the order list has ended before them.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Status> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let is_deleted = |item: &&Value| !key.is_empty() && item.get(PATCH).is_some_and(|d| d == "delete");
    let mut items = patch.iter().filter(|i| !is_deleted(i)).peekable();
    let mut order_left = order.iter();
    while let Some(item) = items.peek() {
        let is_directive = item.get(PATCH).is_some();
        let Some(next) = order_left.as_slice().first() else {
            return Err(other_error(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                printed(&Value::Array(patch.to_vec())),
                printed(&Value::Array(order.to_vec()))
            )));
        };
        if is_directive {
            items.next();
            continue;
        }
        if !key.is_empty() && item.get(key).is_none() {
            return Err(no_merge_key(item.as_object().unwrap_or(&Object::new()), key));
        }
        if same(next, item, key) {
            items.next();
        }
        order_left.next();
    }
    Ok(())
}

/// What makes an item the same one as another: its merge key, or itself where there is none.
fn identity<'v>(item: &'v Value, key: &str) -> Option<&'v Value> {
    if key.is_empty() { Some(item) } else { item.get(key) }
}

/// Whether two items are the same one.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    identity(a, key).is_some() && identity(a, key) == identity(b, key)
}

/// Where each item stands first.
fn places<'v>(list: &'v [Value], key: &str) -> HashMap<&'v Value, usize> {
    let all = list.iter().enumerate().rev();
    all.filter_map(|(i, item)| Some((identity(item, key)?, i))).collect()
}

fn merge_list_field(old: Vec<Value>, new: Vec<Value>, field: &TypeRef) -> Result<Vec<Value>, Status> {
    if field.has_patch_strategy("merge") {
        let items = field.items().unwrap_or_else(TypeRef::any);
        merge_list(old, new, &items, field.patch_merge_key().unwrap_or_default())
    } else {
        Ok(new)
    }
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, items: &TypeRef, key: &str) -> Result<Vec<Value>, Status> {
    let Some(first) = new.first().or(old.first()) else { return Ok(old) };
    match first {
        Value::Array(_) => {
            let mut s = super::json::unprocessable("lists of lists are not supported".into());
            s.reason = "Invalid".into();
            Err(s)
        }
        Value::Object(_) => merge_objects(old, new, items, key),
        _ => {
            let mut seen = HashSet::new();
            let both = old.iter().chain(&new).filter(|item| seen.insert(*item)).cloned().collect();
            Ok(ordered(both, &new, &old, ""))
        }
    }
}

fn merge_objects(old: Vec<Value>, new: Vec<Value>, items: &TypeRef, key: &str) -> Result<Vec<Value>, Status> {
    if key.is_empty() {
        return Err(other_error(format!("cannot merge lists without merge key for {}", items.struct_name())));
    }
    let (mut old, new) = special_items(old, new, key)?;
    let Some(new) = new else { return Ok(old) };
    let before = old.clone();
    let mut at = places(&before, key);
    for item in &new {
        let Value::Object(patch) = item else {
            return Err(other_error("list element types are not identical".to_owned()));
        };
        if !patch.contains_key(key) {
            return Err(no_merge_key(patch, key));
        }
        match identity(item, key).and_then(|id| at.get(id)).and_then(|i| old.get_mut(*i)) {
            Some(Value::Object(found)) => *found = merge_map(std::mem::take(found), patch.clone(), items)?,
            _ => {
                // As upstream: what is said below a new item is taken as it is, and directives are
                // fields that its type does not have.
                if let Some(id) = identity(item, key) {
                    at.insert(id, old.len());
                    old.push(item.clone());
                }
            }
        }
    }
    Ok(ordered(old, &new, &before, key))
}

/// Carries out `$patch` in list items. No second list means that the first replaces everything.
fn special_items(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Option<Vec<Value>>), Status> {
    let (mut plain, mut deleted) = (Vec::new(), HashSet::new());
    let mut replace = false;
    for item in new {
        let Some(directive) = item.get(PATCH) else {
            plain.push(item);
            continue;
        };
        let map = item.as_object().cloned().unwrap_or_default();
        match directive.as_str() {
            Some("delete") => {
                if !map.contains_key(key) {
                    return Err(no_merge_key(&map, key));
                }
                deleted.extend(identity(&item, key).cloned());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(other_error("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => return Err(unknown_directive(directive, &map)),
        }
    }
    old.retain(|o| identity(o, key).is_none_or(|id| !deleted.contains(id)));
    Ok(if replace { (plain, None) } else { (old, Some(plain)) })
}

/// Puts the items that the patch names in the patch's order, and the server's others among them
/// where the server's order has them.
fn ordered(merged: Vec<Value>, patch_order: &[Value], server_order: &[Value], key: &str) -> Vec<Value> {
    let (in_patch, on_server) = (places(patch_order, key), places(server_order, key));
    let place =
        |item: &Value, order: &HashMap<&Value, usize>| identity(item, key).and_then(|id| order.get(id)).copied();
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(item, &in_patch).is_some());
    patched.sort_by_key(|item| place(item, &in_patch));
    server.sort_by_key(|item| place(item, &on_server).unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(patched.len() + server.len());
    let mut server = server.into_iter().peekable();
    for item in patched {
        if let Some(mine) = place(&item, &on_server) {
            while let Some(other) = server.next_if(|s| place(s, &on_server).is_some_and(|p| p < mine)) {
                all.push(other);
            }
        }
        all.push(item);
    }
    all.extend(server);
    all
}

/// `$deleteFromPrimitiveList/<field>`
fn delete_from_list(original: &mut Object, field: &str, values: &Value) -> Result<(), Status> {
    let Value::Array(values) = values else { return Err(bad_format("primitive list")) };
    match original.get_mut(field) {
        Some(Value::Array(list)) => {
            let values: HashSet<&Value> = values.iter().collect();
            list.retain(|item| !values.contains(item));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A value that is new to the object, without the maps and items that are directives.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
