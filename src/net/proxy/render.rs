//! The table in nft's words.
//!
//! ```text
//! frontends      address . protocol . port      -> goto lb_N, or a chain with affinity
//! ep_N           the same . random index mod N  -> endpoint
//! inside, in_N   the same two for clients in the cluster, where they differ
//! refused        address . protocol . port      -> drop, or reject
//! masquerade_to  address . protocol . port      of what hides its clients
//! guarded        address . protocol . port      of what only some may use, and
//! allowed        the same . range               who they are
//! hairpin        endpoint . endpoint            of this node
//! ```

use super::table::{Endpoint, Front, Frontend, Refusal, Table, Target};
use crate::Config;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

/// Mark of packets whose source becomes the node's.
const MASQUERADE: u32 = 0x4000;
/// Most clients that affinity remembers for one endpoint.
const CLIENTS: u32 = 65_536;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn of(addr: IpAddr) -> Self {
        if addr.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn multicast(self) -> &'static str {
        match self {
            Self::V4 => "224.0.0.0/4",
            Self::V6 => "ff00::/8",
        }
    }
}

/// A chain and map that spread connections over a number of endpoints. They
/// are shared by all services of that size and, being few, never taken away
/// before the whole table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    family: Family,
    inside: bool,
    size: usize,
}

impl Shape {
    fn map(self) -> String {
        format!("{}_{}", if self.inside { "in" } else { "ep" }, self.size)
    }

    fn chain(self) -> String {
        format!("{}_{}", if self.inside { "near" } else { "lb" }, self.size)
    }
}

type Names = (Family, String);
type Elements = BTreeMap<Names, BTreeMap<String, Option<String>>>;

/// The families a table needs.
pub fn families(config: &Config, table: &Table) -> BTreeSet<Family> {
    let mut families: BTreeSet<_> = table.frontends.keys().map(|f| Family::of(f.addr)).collect();
    families.insert(Family::of(config.cluster_cidr.addr()));
    families
}

/// The chains and maps a table needs.
pub fn shapes(table: &Table) -> BTreeSet<Shape> {
    table.frontends.iter().flat_map(|(front, frontend)| shapes_of(*front, frontend)).collect()
}

fn shapes_of(front: Front, frontend: &Frontend) -> impl Iterator<Item = Shape> {
    let shape = move |inside, target: Option<&Target>| {
        let size = target.map_or(0, |t| t.endpoints().len());
        (size > 0).then_some(Shape { family: Family::of(front.addr), inside, size })
    };
    let shared = frontend.affinity.is_none().then_some(&frontend.target);
    [shape(false, shared), shape(true, frontend.inside.as_ref())].into_iter().flatten()
}

fn delete_table(script: &mut String, config: &Config, family: Family) {
    let (ip, table) = (family.word(), &config.table);
    // Naming it first makes the deletion succeed when there is none.
    let _ = writeln!(script, "table {ip} {table}\ndelete table {ip} {table}");
}

/// The script that makes the whole table anew, whatever was there.
pub fn whole(config: &Config, table: &Table) -> String {
    let families = families(config, table);
    let mut script = String::new();
    for family in [Family::V4, Family::V6] {
        if families.contains(&family) {
            delete_table(&mut script, config, family);
            base(&mut script, config, family);
        }
    }
    script + &difference(config, &Table::default(), table, &BTreeSet::new())
}

/// The script that turns one table into another; `known` are the shapes that
/// exist already. Empty when there is nothing to do.
pub fn difference(config: &Config, old: &Table, new: &Table, known: &BTreeSet<Shape>) -> String {
    let name = &config.table;
    let (mut gone, mut fresh) = (Elements::new(), Elements::new());
    let (mut unstick, mut stick) = (String::new(), String::new());

    let fronts = old.frontends.keys().chain(new.frontends.keys()).collect::<BTreeSet<_>>();
    for front in fronts {
        let (before, after) = (old.frontends.get(front), new.frontends.get(front));
        if before == after {
            continue;
        }
        if let Some(before) = before {
            elements(&mut gone, *front, before);
        }
        if let Some(after) = after {
            elements(&mut fresh, *front, after);
        }
        affinity(&mut unstick, &mut stick, name, *front, before, after);
    }
    let hairpin = |into: &mut Elements, addr: &IpAddr| {
        put(into, Family::of(*addr), "hairpin", format!("{addr} . {addr}"), None);
    };
    old.hairpin.difference(&new.hairpin).for_each(|addr| hairpin(&mut gone, addr));
    new.hairpin.difference(&old.hairpin).for_each(|addr| hairpin(&mut fresh, addr));
    // What both have stays untouched.
    for (set, gone) in &mut gone {
        if let Some(fresh) = fresh.get_mut(set) {
            gone.retain(|key, value| {
                let same = fresh.get(key) == Some(value);
                if same {
                    fresh.remove(key);
                }
                !same
            });
        }
    }

    let mut script = String::new();
    change(&mut script, "delete", name, &gone);
    script.push_str(&unstick);
    for shape in shapes(new).difference(known) {
        add_shape(&mut script, config, *shape);
    }
    script.push_str(&stick);
    change(&mut script, "add", name, &fresh);
    script
}

fn change(script: &mut String, verb: &str, table: &str, elements: &Elements) {
    for ((family, set), elements) in elements {
        if elements.is_empty() {
            continue;
        }
        let _ = write!(script, "{verb} element {} {table} {set} {{ ", family.word());
        for (at, (key, value)) in elements.iter().enumerate() {
            if at > 0 {
                script.push_str(", ");
            }
            script.push_str(key);
            // A deletion is by key.
            if let Some(value) = value.as_deref().filter(|_| verb == "add") {
                script.push_str(" : ");
                script.push_str(value);
            }
        }
        script.push_str(" }\n");
    }
}

fn put(into: &mut Elements, family: Family, set: &str, key: String, value: Option<String>) {
    into.entry((family, set.to_owned())).or_default().insert(key, value);
}

fn key(front: Front) -> String {
    format!("{} . {} . {}", front.addr, front.protocol.as_str(), front.port)
}

/// The elements that serve one frontend.
fn elements(into: &mut Elements, front: Front, frontend: &Frontend) {
    let family = Family::of(front.addr);
    let place = key(front);
    match (&frontend.target, frontend.affinity) {
        (Target::Refuse(refusal), _) => {
            let verdict = match refusal {
                Refusal::Reject => "goto refuse",
                Refusal::Drop => "drop",
            };
            put(into, family, "refused", place.clone(), Some(verdict.into()));
        }
        (Target::Endpoints(_), Some(_)) => {
            let chain = format!("goto {}", sticky_chain(front));
            put(into, family, "frontends", place.clone(), Some(chain));
        }
        (Target::Endpoints(_), None) => {}
    }
    for shape in shapes_of(front, frontend) {
        let (set, target) = match (shape.inside, &frontend.inside) {
            (false, _) => ("frontends", &frontend.target),
            (true, Some(inside)) => ("inside", inside),
            (true, None) => continue,
        };
        put(into, family, set, place.clone(), Some(format!("goto {}", shape.chain())));
        for (index, endpoint) in target.endpoints().iter().enumerate() {
            let to = format!("{} . {}", endpoint.addr, endpoint.port);
            put(into, family, &shape.map(), format!("{place} . {index}"), Some(to));
        }
    }
    if frontend.masquerade {
        put(into, family, "masquerade_to", place.clone(), None);
    }
    if !frontend.allowed.is_empty() {
        put(into, family, "guarded", place.clone(), None);
        // Ranges within ranges are an error to the kernel.
        for range in IpNet::aggregate(&frontend.allowed) {
            put(into, family, "allowed", format!("{place} . {range}"), None);
        }
    }
}

fn add_shape(script: &mut String, config: &Config, shape: Shape) {
    let (ip, table, size) = (shape.family.word(), &config.table, shape.size);
    let (map, chain) = (shape.map(), shape.chain());
    let place = format!("{ip} daddr . meta l4proto . th dport . numgen random mod {size}");
    let _ = writeln!(script, "add map {ip} {table} {map} {{ typeof {place} : {ip} daddr . th dport; }}");
    let _ = writeln!(script, "add chain {ip} {table} {chain}");
    if shape.inside && Family::of(config.cluster_cidr.addr()) == shape.family {
        let cluster = config.cluster_cidr;
        let _ = writeln!(script, "add rule {ip} {table} {chain} {ip} saddr != {cluster} jump mark_masquerade");
    }
    let _ = writeln!(script, "add rule {ip} {table} {chain} dnat to {place} map @{map}");
}

fn label(front: Front) -> String {
    format!("{}_{}_{}", front.addr, front.protocol.as_str(), front.port).replace(':', "-")
}

fn sticky_chain(front: Front) -> String {
    format!("aff_{}", label(front))
}

fn sticky_endpoint(front: Front, endpoint: Endpoint) -> String {
    format!("{}_{}_{}", label(front), endpoint.addr, endpoint.port).replace(':', "-")
}

/// Chains and sets of a frontend with affinity. Those of endpoints that stay
/// are kept, and with them the clients they remember.
fn affinity(
    unstick: &mut String,
    stick: &mut String,
    table: &str,
    front: Front,
    before: Option<&Frontend>,
    after: Option<&Frontend>,
) {
    let ip = Family::of(front.addr).word();
    let sticky = |f: Option<&Frontend>| -> Option<(u32, Vec<Endpoint>)> {
        let f = f?;
        let endpoints = f.target.endpoints();
        Some((f.affinity?, endpoints.to_vec())).filter(|(_, e)| !e.is_empty())
    };
    let (before, after) = (sticky(before), sticky(after));
    let chain = sticky_chain(front);
    let seconds = |s: &Option<(u32, Vec<Endpoint>)>| s.as_ref().map(|(seconds, _)| *seconds);
    let kept = |endpoint: &Endpoint| {
        let has = |s: &Option<(u32, Vec<Endpoint>)>| s.as_ref().is_some_and(|(_, e)| e.contains(endpoint));
        seconds(&before) == seconds(&after) && has(&before) && has(&after)
    };
    if let Some((_, endpoints)) = &before {
        let _ = writeln!(unstick, "flush chain {ip} {table} {chain}");
        if after.is_none() {
            let _ = writeln!(unstick, "delete chain {ip} {table} {chain}");
        }
        for endpoint in endpoints.iter().filter(|e| !kept(e)) {
            let own = sticky_endpoint(front, *endpoint);
            let _ = writeln!(unstick, "flush chain {ip} {table} end_{own}");
            let _ = writeln!(unstick, "delete chain {ip} {table} end_{own}");
            let _ = writeln!(unstick, "delete set {ip} {table} seen_{own}");
        }
    }
    let Some((seconds, endpoints)) = &after else {
        return;
    };
    if before.is_none() {
        let _ = writeln!(stick, "add chain {ip} {table} {chain}");
    }
    for endpoint in endpoints.iter().filter(|e| !kept(e)) {
        let own = sticky_endpoint(front, *endpoint);
        let to = match endpoint.addr {
            IpAddr::V4(addr) => format!("{addr}:{}", endpoint.port),
            IpAddr::V6(addr) => format!("[{addr}]:{}", endpoint.port),
        };
        let _ = writeln!(
            stick,
            "add set {ip} {table} seen_{own} {{ typeof {ip} saddr; size {CLIENTS}; timeout {seconds}s; flags dynamic,timeout; }}"
        );
        let _ = writeln!(stick, "add chain {ip} {table} end_{own}");
        let _ = writeln!(stick, "add rule {ip} {table} end_{own} update @seen_{own} {{ {ip} saddr }}");
        let protocol = front.protocol.as_str();
        let _ = writeln!(stick, "add rule {ip} {table} end_{own} meta l4proto {protocol} dnat to {to}");
    }
    for endpoint in endpoints {
        let own = sticky_endpoint(front, *endpoint);
        let _ = writeln!(stick, "add rule {ip} {table} {chain} {ip} saddr @seen_{own} goto end_{own}");
    }
    let _ = write!(stick, "add rule {ip} {table} {chain} numgen random mod {} vmap {{ ", endpoints.len());
    for (index, endpoint) in endpoints.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let _ = write!(stick, "{comma}{index} : goto end_{}", sticky_endpoint(front, *endpoint));
    }
    stick.push_str(" }\n");
}

/// What every table has, services or not.
fn base(script: &mut String, config: &Config, family: Family) {
    let ip = family.word();
    let place = format!("{ip} daddr . meta l4proto . th dport");
    let of_family = |net: &IpNet| Family::of(net.addr()) == family;
    let cluster = Some(config.cluster_cidr).filter(of_family);
    let service = Some(config.service_cidr).filter(of_family);
    let pods = Some(config.pod_cidr).filter(of_family);

    let near = cluster.map_or(String::new(), |cluster| format!("{ip} saddr {cluster} {place} vmap @inside\n    "));
    let foreign = match (cluster, service) {
        (Some(cluster), Some(service)) => {
            format!("{ip} saddr != {cluster} {ip} daddr {service} jump mark_masquerade\n    ")
        }
        _ => String::new(),
    };
    let outward = match (pods, cluster) {
        (Some(pods), Some(cluster)) => {
            let multicast = family.multicast();
            format!("{ip} saddr {pods} {ip} daddr != {{ {cluster}, {multicast} }} masquerade fully-random\n    ")
        }
        _ => String::new(),
    };
    let unmark = !MASQUERADE;
    let table = &config.table;
    let _ = write!(
        script,
        "table {ip} {table} {{
  map frontends {{ typeof {place} : verdict; }}
  map inside {{ typeof {place} : verdict; }}
  map refused {{ typeof {place} : verdict; }}
  set masquerade_to {{ typeof {place}; }}
  set guarded {{ typeof {place}; }}
  set allowed {{ typeof {place} . {ip} saddr; flags interval; }}
  set hairpin {{ typeof {ip} saddr . {ip} daddr; }}
  chain mark_masquerade {{
    meta mark set meta mark | {MASQUERADE:#x}
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain services {{
    {foreign}{place} @masquerade_to jump mark_masquerade
    {place} vmap @frontends
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {near}jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    {place} vmap @inside
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} meta mark set meta mark & {unmark:#x} masquerade fully-random
    ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random
    {outward}
  }}
  chain guard {{
    type filter hook prerouting priority -110; policy accept;
    {place} @guarded {place} . {ip} saddr != @allowed drop
  }}
  chain refuse_input {{
    type filter hook input priority 0; policy accept;
    ct state new {place} vmap @refused
  }}
  chain refuse_forward {{
    type filter hook forward priority 0; policy accept;
    ct state new {place} vmap @refused
  }}
  chain refuse_output {{
    type filter hook output priority 0; policy accept;
    ct state new {place} vmap @refused
  }}
}}
"
    );
}
