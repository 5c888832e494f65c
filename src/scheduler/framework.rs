//! The plugin interface and one scheduling cycle: filter every node, score those that fit.

use std::collections::BTreeMap;

use api::k8s::core::v1::Pod;

use crate::cache::{Cache, NodeInfo};

/// The highest score a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// A scheduling plugin.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// What its score counts.
    fn weight(&self) -> i64 {
        1
    }
    /// A reason for which no node can take the pod.
    fn pre_filter(&self, _pod: &Pod) -> Option<String> {
        None
    }
    /// Why a node cannot take the pod: one message for each reason, in upstream's words.
    fn filter(&self, _pod: &Pod, _node: &NodeInfo) -> Vec<String> {
        Vec::new()
    }
    /// How well a node suits, up to [`MAX_SCORE`] or any number when [`Plugin::normalize`] brings it there;
    /// `None` when the plugin does not score this pod.
    fn score(&self, _pod: &Pod, _node: &NodeInfo) -> Option<i64> {
        None
    }
    /// Brings raw scores into 0..=[`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// What a cycle came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node.
    Node(String),
    /// No node, with upstream's message.
    None(String),
}

/// The plugins of a profile.
pub struct Framework {
    plugins: Vec<Box<dyn Plugin>>,
}

impl std::fmt::Debug for Framework {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(|p| p.name())).finish()
    }
}

/// Brings scores into 0..=[`MAX_SCORE`] by the largest; `reverse` for scores where less is better.
pub fn normalize_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in scores {
        let scaled = if max == 0 { 0 } else { *s * MAX_SCORE / max };
        *s = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

impl Framework {
    /// A framework of plugins in order.
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Framework {
        Framework { plugins }
    }

    /// Decides about one pod.
    pub fn decide(&self, pod: &Pod, cache: &Cache) -> Decision {
        if cache.is_empty() {
            return Decision::None("no nodes available to schedule pods".into());
        }
        if let Some(why) = self.plugins.iter().find_map(|p| p.pre_filter(pod)) {
            return Decision::None(why);
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut fitting: Vec<&NodeInfo> = Vec::new();
        for node in cache.nodes() {
            let refused = self.plugins.iter().map(|p| p.filter(pod, node)).find(|r| !r.is_empty());
            match refused {
                None => fitting.push(node),
                Some(why) => why.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1),
            }
        }
        match fitting.as_slice() {
            [] => Decision::None(message(cache.len(), reasons)),
            [only] => Decision::Node(only.name().to_owned()),
            many => Decision::Node(self.best(pod, many)),
        }
    }

    fn best(&self, pod: &Pod, nodes: &[&NodeInfo]) -> String {
        let mut totals = vec![0i64; nodes.len()];
        for p in &self.plugins {
            let Some(mut scores) = nodes.iter().map(|n| p.score(pod, n)).collect::<Option<Vec<i64>>>() else {
                continue;
            };
            p.normalize(&mut scores);
            for (t, s) in totals.iter_mut().zip(scores) {
                *t += s * p.weight();
            }
        }
        let best = totals.iter().copied().max().unwrap_or(0);
        let winners: Vec<usize> = (0..nodes.len()).filter(|i| totals[*i] == best).collect();
        // Any of the best: else the first node would get every tie.
        nodes[winners[rand::random_range(0..winners.len())]].name().to_owned()
    }
}

fn message(nodes: usize, reasons: BTreeMap<String, usize>) -> String {
    let mut list: Vec<String> = reasons.into_iter().map(|(r, n)| format!("{n} {r}")).collect();
    list.sort();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling.",
        list.join(", ")
    )
}
