//! The claim: a descent without a lock, while the tree is rotated and nodes come
//! and go, ends; each node it stands on shows what was written before that node
//! was linked; what it finds is what it looked for.
//!
//! It may miss: that is not claimed.
//! Shown to fail, beside an insertion and beside a removal, when links are published
//! without release, and when the descent loads them without acquire.
#![cfg(loom)]

mod explore;

use explore::at_most;
use loom::sync::Arc;
use loom::thread;
use mm_core::pool::{Handle, Node};
use mm_core::sync::{AtomicU32, AtomicUsize, Ordering};
use mm_core::tree::{Adapter, Links, MAX_STEPS, Resolve, Tree};

struct Key {
    links: Links<Key>,
    key: AtomicUsize,
    free: AtomicU32,
}

impl Node for Key {
    const NAME: &'static str = "key";
    fn new() -> Self {
        Self {
            links: Links::new(),
            key: AtomicUsize::new(0),
            free: AtomicU32::new(0),
        }
    }
    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

struct ByKey;

impl Adapter for ByKey {
    type Node = Key;
    fn links(node: &Key) -> &Links<Key> {
        &node.links
    }
    fn precedes(a: &Key, b: &Key) -> bool {
        a.key.load(Ordering::Relaxed) < b.key.load(Ordering::Relaxed)
    }
    fn augment(_: &Key, _: Option<&Key>, _: Option<&Key>) -> bool {
        false
    }
}

struct Nodes(Vec<Key>);

impl Resolve<Key> for Nodes {
    fn get(&self, handle: Handle<Key>) -> &Key {
        &self.0[handle.into_raw() as usize - 1]
    }
}

fn handle(i: u32) -> Handle<Key> {
    Handle::from_raw(i).unwrap()
}

fn insert(tree: &Tree<ByKey>, nodes: &Nodes, i: u32, key: usize) {
    nodes.get(handle(i)).key.store(key, Ordering::Relaxed);
    tree.insert(nodes, handle(i));
}

/// Looks for a key as a fault looks for an area.
fn look(tree: &Tree<ByKey>, nodes: &Nodes, key: usize) -> Option<usize> {
    let mut steps = 0;
    let found = tree.find_unlocked(nodes, |node| {
        steps += 1;
        let here = node.key.load(Ordering::Relaxed);
        assert_ne!(here, 0, "a node is seen that was not filled yet");
        here.cmp(&key)
    });
    assert!(steps <= MAX_STEPS);
    found.map(|h| nodes.get(h).key.load(Ordering::Relaxed))
}

#[test]
fn a6_descent_during_an_insertion_with_rotation() {
    at_most(3, || {
        let nodes = Arc::new(Nodes((0..3).map(|_| Key::new()).collect()));
        let tree = Arc::new(Tree::<ByKey>::new());
        insert(&tree, &nodes, 1, 10);
        insert(&tree, &nodes, 2, 20);
        let seen = (nodes.clone(), tree.clone());
        let reader = thread::spawn(move || {
            let (nodes, tree) = seen;
            assert!(look(&tree, &nodes, 30).is_none_or(|key| key == 30));
        });
        // The root turns: 20 comes up between 10 and 30.
        insert(&tree, &nodes, 3, 30);
        reader.join().unwrap();
        assert_eq!(look(&tree, &nodes, 10), Some(10));
        assert_eq!(look(&tree, &nodes, 30), Some(30));
    });
}

#[test]
fn a6_descent_during_a_removal_and_reuse_of_the_node() {
    at_most(3, || {
        let nodes = Arc::new(Nodes((0..4).map(|_| Key::new()).collect()));
        let tree = Arc::new(Tree::<ByKey>::new());
        for (i, key) in [(1, 20), (2, 10), (3, 30)] {
            insert(&tree, &nodes, i, key);
        }
        let seen = (nodes.clone(), tree.clone());
        let reader = thread::spawn(move || {
            let (nodes, tree) = seen;
            // A node that was reused may answer to its new key; it is never
            // found on the way down from itself.
            let found = look(&tree, &nodes, 40);
            assert!(found.is_none_or(|key| key == 40));
        });
        // The root has two children: 30 takes its place.
        tree.remove(&*nodes, handle(1));
        let other = Tree::<ByKey>::new();
        insert(&other, &nodes, 1, 25);
        // Below the one that took its place.
        insert(&tree, &nodes, 4, 40);
        reader.join().unwrap();
        assert_eq!(look(&tree, &nodes, 10), Some(10));
        assert_eq!(look(&tree, &nodes, 30), Some(30));
        assert_eq!(look(&tree, &nodes, 40), Some(40));
        assert_eq!(look(&tree, &nodes, 20), None);
    });
}
