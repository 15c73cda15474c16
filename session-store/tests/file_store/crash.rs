//! A power cut at every sync.
//!
//! A workload runs on the simulated disk, again and again, and the power goes with the first sync, the second, and so on
//! until it gets through. Each time the disk is looked at as a power cut leaves it and as a `kill -9` leaves it: what was
//! reported durable is there (what was written, after a kill), every session lists, opens, takes an event and makes it
//! durable.

use crate::sim::SimFs;
use crate::writing::{entries, log_path, options, say, soon, texts};
use session_store::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What the store said of its sessions.
#[derive(Default)]
struct Reported {
    durable: BTreeMap<SessionId, Vec<Arc<Entry>>>,
    sides: Vec<(SessionId, SideRef, Vec<u8>)>,
}

struct Writer {
    log: Arc<dyn SessionLog>,
    accepted: Vec<Arc<Entry>>,
}

impl Writer {
    fn new(opened: OpenSession) -> Self {
        Self { log: opened.log, accepted: Vec::new() }
    }

    fn say(&mut self, text: &str) {
        self.append(say(text));
    }

    fn append(&mut self, event: Event) {
        if let Ok(entry) = self.log.append(event) {
            self.accepted.push(entry);
        }
    }

    async fn durable(&self, reported: &mut Reported) -> Result<(), StoreError> {
        let last = self.accepted.last().map_or(0, |entry| entry.seq);
        soon(self.log.durable(last)).await?;
        reported.durable.entry(self.log.id()).or_default().extend(self.accepted.iter().cloned());
        Ok(())
    }
}

async fn workload(fs: &SimFs, store: &FileStore, reported: &mut Reported) -> Result<(), StoreError> {
    let mut one = Writer::new(store.create(NewSession::default()).await?);
    one.say("a question");
    one.durable(reported).await?;

    let output = vec![b'o'; 5000];
    let side = one.log.put_side(output.clone()).expect("there is room");
    let (call, name) = ("call_1_0".to_owned(), "read".to_owned());
    let full = Some(side.clone());
    one.append(
        ToolFinished { call, name, outcome: ToolOutcome::Ok, output: "o".to_owned(), full, images: Vec::new(), duration_ms: 0 }
            .into(),
    );
    one.say(&"large ".repeat(2000));
    one.durable(reported).await?;
    reported.sides.push((one.log.id(), side.clone(), output.clone()));

    let mut two = Writer::new(store.create(NewSession::default()).await?);
    let mut three = Writer::new(store.create(NewSession::default()).await?);
    two.say("two");
    three.say("three");
    soon(store.flush()).await?;
    two.durable(reported).await?;
    three.durable(reported).await?;

    let mut fork = Writer::new(store.fork(one.log.id(), None).await?);
    let copied = reported.durable[&one.log.id()].clone();
    reported.durable.entry(fork.log.id()).or_default().extend(copied);
    fork.say("forked");
    fork.durable(reported).await?;
    reported.sides.push((fork.log.id(), side, output));

    soon(three.log.close()).await?;
    let torn = |bytes: &mut Vec<u8>| bytes.extend_from_slice(b"{\"seq\":4,\"at\":\"20");
    fs.edit(&log_path(three.log.id()), torn);
    let mut three = Writer::new(store.open(three.log.id()).await?);
    three.say("recovered");
    three.durable(reported).await?;
    // Without power it takes the whole of its limit.
    soon(store.shutdown(Duration::from_millis(300))).await.map_err(|_| StoreError::Closed)
}

fn store(fs: &SimFs, boot: &str) -> FileStore {
    let mut options = options(fs);
    options.window = Duration::from_millis(1);
    options.line_bytes_max = 4096;
    options.machine.boot = boot.to_owned();
    FileStore::open(options).unwrap()
}

async fn check(fs: &SimFs, boot: &str, reported: &Reported, when: &str) {
    let store = store(fs, boot);
    for (id, expected) in &reported.durable {
        let found = entries(&store, *id).await;
        for entry in expected {
            assert!(found.contains(entry), "{when}: event {} of {id} was durable and is gone", entry.seq);
        }
    }
    for (id, side, bytes) in &reported.sides {
        assert_eq!(&store.read_side(*id, side).await.expect(when), bytes, "{when}");
    }
    for summary in store.list().await.expect(when) {
        let opened = store.open(summary.id).await.expect(when);
        let entry = opened.log.append(say("after the crash")).expect(when);
        soon(opened.log.durable(entry.seq)).await.expect(when);
        assert_eq!(texts(&store, summary.id).await.last().expect(when), "after the crash", "{when}");
    }
}

#[tokio::test]
async fn a_power_cut_at_any_sync_takes_nothing_that_was_durable() {
    for sync in 1.. {
        let fs = SimFs::new();
        fs.power_off_at_sync(sync);
        let store1 = store(&fs, "boot 1");
        let mut reported = Reported::default();
        let outcome = workload(&fs, &store1, &mut reported).await;
        check(&fs.after_power_cut(), "boot 2", &reported, &format!("power cut at sync {sync}")).await;
        check(&fs.after_kill(), "boot 1", &reported, &format!("killed at sync {sync}")).await;
        if outcome.is_ok() {
            assert!(sync > 20, "the workload syncs often: {sync}");
            return;
        }
    }
}
