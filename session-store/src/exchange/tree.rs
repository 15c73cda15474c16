//! Files whose records name their parents: which of them are the conversation that its own program would go on with.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

/// A record of a tree.
#[derive(Clone, Copy)]
struct Node {
    line: u64,
    parent: Option<u64>,
}

/// The records of a file by their ids. An id takes a few bytes, however long it is.
#[derive(Default)]
pub(super) struct Tree {
    hasher: RandomState,
    nodes: HashMap<u64, Node>,
    /// Line and id, in the order of lines.
    order: Vec<(u64, u64)>,
    leaf: Option<u64>,
}

/// The way from the root to the leaf.
#[derive(Default)]
pub(super) struct Path {
    /// The lines on it.
    pub(super) lines: HashSet<u64>,
    /// How often a parent was not there, and the record before was taken instead.
    pub(super) gaps: u64,
    /// Whether the parents go round.
    pub(super) is_circular: bool,
}

impl Tree {
    /// Adds the record of `line`; one with an id that was there replaces it. The last with `can_be_leaf` is the leaf.
    pub(super) fn add(&mut self, line: u64, id: &str, parent: Option<&str>, can_be_leaf: bool) {
        let key = self.key(id);
        self.nodes.insert(key, Node { line, parent: parent.map(|parent| self.key(parent)) });
        self.order.push((line, key));
        if can_be_leaf {
            self.leaf = Some(key);
        }
    }

    pub(super) fn key(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    /// From the leaf up to the root. Where a parent is missing (its line was damaged), the record on the line before goes for it.
    pub(super) fn path(&self) -> Path {
        let mut path = Path::default();
        let mut at = self.leaf;
        while let Some(node) = at.and_then(|key| self.nodes.get(&key)) {
            if !path.lines.insert(node.line) {
                path.is_circular = true;
                break;
            }
            at = node.parent;
            if at.is_some_and(|parent| !self.nodes.contains_key(&parent)) {
                path.gaps += 1;
                let before = self.order.partition_point(|(line, _)| *line < node.line);
                at = before.checked_sub(1).and_then(|before| self.order.get(before)).map(|(_, key)| *key);
            }
        }
        path
    }
}
