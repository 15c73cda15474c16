//! What is done to the disk that loses its power: sessions that talk, call tools, fork, are taken over from owners that died, and removed,
//! several at a time, in an order that a seed decides.

use crate::disk::{Disk, Files, Promise, log_path};
use fastrand::Rng;
use session_store::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Nothing that the store is asked for takes as long.
const LIMIT: Duration = Duration::from_secs(120);
/// How many sessions are open at the same time at most.
const SESSIONS_MAX: usize = 12;

pub(crate) fn store(disk: &Disk, boot: &str) -> FileStore {
    let mut options = FileStoreOptions::new("/home");
    options.program = "test 1".to_owned();
    options.fs = Arc::new(disk.clone());
    options.window = Duration::from_millis(2);
    options.line_bytes_max = 2048;
    // It is nobody's promise, and large.
    options.ballast_bytes = 0;
    options.machine = Machine { host: "here".to_owned(), boot: boot.to_owned(), pid: 1 };
    FileStore::open(options).expect("the home is a folder")
}

pub(crate) fn say(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

/// Waits for what must come to pass.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it hangs")
}

/// A process that writes sessions.
struct Process {
    disk: Disk,
    store: FileStore,
    open: BTreeMap<SessionId, Open>,
    closed: Vec<SessionId>,
    archived: Vec<SessionId>,
    rng: Rng,
}

struct Open {
    log: Arc<dyn SessionLog>,
    state: State,
    /// The last event that was accepted.
    last: Seq,
}

impl Open {
    fn new(opened: OpenSession) -> Self {
        let last = opened.state.next_seq - 1;
        Self { log: opened.log, state: opened.state, last }
    }

    fn append(&mut self, event: Event) -> Seq {
        let entry = self.log.append(event).expect("there is room");
        self.state.apply(&entry);
        self.last = entry.seq;
        self.last
    }

    fn checkpoint(&mut self) {
        if let Some(checkpoint) = self.state.checkpoint() {
            self.append(checkpoint.into());
        }
    }

    /// A turn with a tool call, and the pieces of the answer as they came.
    fn turn(&mut self, rng: &mut Rng) {
        let origin = Origin { provider: "anthropic".into(), model: "m".into(), ..Origin::default() };
        self.append(say("please look"));
        let request = ModelRequest { origin: origin.clone(), ..ModelRequest::default() };
        let message = self.append(request.into());
        self.append(AssistantText { message, offset: 0, text: "I will ".into() }.into());
        if rng.u8(..8) == 0 {
            return;
        }
        let call = ToolCall {
            id: format!("call_{message}_0"),
            provider_id: "toolu_1".into(),
            name: "run".into(),
            arguments: "{}".into(),
        };
        let answer = AssistantMessage {
            message,
            origin,
            blocks: vec![Block::Text { text: "I will look.".into() }, Block::ToolCall(call.clone())],
            stop: StopReason::ToolUse,
            partial: false,
            usage: None,
            opaque: None,
        };
        self.append(answer.into());
        self.append(ToolStarted { call: call.id.clone(), name: call.name.clone(), side_effects: rng.bool() }.into());
        if rng.u8(..4) == 0 {
            return;
        }
        self.append(finished(call.id, "done".into(), None));
    }
}

fn finished(call: String, output: String, full: Option<SideRef>) -> Event {
    ToolFinished { call, name: "run".into(), outcome: ToolOutcome::Ok, output, full, images: Vec::new(), duration_ms: 0 }.into()
}

/// Runs `steps` steps on `disk` and leaves the trace there; says which disk the last process had.
pub(crate) async fn run(disk: &Disk, steps: usize, seed: u64) -> Disk {
    let mut process = Process {
        disk: disk.clone(),
        store: store(disk, "boot 1"),
        open: BTreeMap::new(),
        closed: Vec::new(),
        archived: Vec::new(),
        rng: Rng::with_seed(seed),
    };
    process.create().await;
    for _ in 0..steps {
        process.step().await;
    }
    soon(process.store.shutdown(LIMIT)).await.expect("nothing fails");
    let open = std::mem::take(&mut process.open);
    open.into_iter().for_each(|(id, open)| process.durable(id, open.last + 1));
    process.disk
}

impl Process {
    async fn step(&mut self) {
        let what = self.rng.u8(..36);
        let Some((id, open)) = self.any() else { return self.create().await };
        match what {
            0..4 => drop(open.append(say("hello"))),
            4..8 => open.turn(&mut Rng::with_seed(u64::from(id.uuid().as_bytes()[15]) ^ open.last)),
            8..10 => drop(open.append(say(&"long ".repeat(200)))),
            10..13 => self.commit(id).await,
            13 => drop(open.append(say(&format!("{id} {} {}", open.last, "large ".repeat(600))))),
            14..16 => self.side(id).await,
            16 => {
                let seq = open.last;
                soon(open.log.written(seq)).await.expect("nothing fails");
            }
            17 => self.burst().await,
            18 => self.flush().await,
            19..21 => self.close(id).await,
            21..23 => self.reopen().await,
            23 => self.fork(id).await,
            24 => self.remove().await,
            25 => self.kill(false).await,
            26 => self.kill(true).await,
            27..30 => open.checkpoint(),
            30 => self.compress().await,
            31..33 => self.archive().await,
            33 => self.unarchive().await,
            _ => self.create().await,
        }
    }

    fn any(&mut self) -> Option<(SessionId, &mut Open)> {
        let index = self.rng.usize(..self.open.len().max(1));
        self.open.iter_mut().nth(index).map(|(id, open)| (*id, open))
    }

    fn durable(&self, id: SessionId, seq: Seq) {
        self.disk.durable(id, seq);
    }

    async fn create(&mut self) {
        if self.open.len() < SESSIONS_MAX {
            let opened = soon(self.store.create(NewSession::default())).await.expect("nothing fails");
            self.open.insert(opened.log.id(), Open::new(opened));
        }
    }

    async fn commit(&mut self, id: SessionId) {
        let Open { log, last, .. } = &self.open[&id];
        soon(log.durable(*last)).await.expect("nothing fails");
        self.durable(id, *last);
    }

    async fn flush(&mut self) {
        soon(self.store.flush()).await.expect("nothing fails");
        self.open.iter().for_each(|(id, open)| self.durable(*id, open.last));
    }

    /// All sessions say something, and the store is left to make it durable by itself.
    async fn burst(&mut self) {
        for _ in self.open.len()..SESSIONS_MAX {
            self.create().await;
        }
        for _ in 0..3 {
            for open in self.open.values_mut() {
                open.append(say("all at once"));
            }
            for (id, Open { log, last, .. }) in &self.open {
                soon(log.progress().wait_for(|progress| progress.durable > *last)).await.expect("it is open");
                self.durable(*id, *last);
            }
        }
    }

    async fn side(&mut self, id: SessionId) {
        let open = self.open.get_mut(&id).expect("it is open");
        let output = format!("{id} {} ", open.last).repeat(self.rng.usize(1..60));
        let side = open.log.put_side(output.clone().into_bytes()).expect("there is room");
        let sha256 = side.sha256.clone();
        if self.rng.bool() {
            let image = ImageRef { media_type: "image/png".into(), width: 1, height: 1, sha256: side.sha256, bytes: side.bytes };
            open.append(UserMessage { text: "look".into(), images: vec![image], ..UserMessage::default() }.into());
        } else {
            open.append(finished(format!("call_{}", open.last), "cut".into(), Some(side)));
        }
        if self.rng.bool() {
            self.commit(id).await;
            self.disk.promise(Promise::Side { id, sha256 });
        }
    }

    async fn close(&mut self, id: SessionId) {
        let Some(Open { log, last, .. }) = self.open.remove(&id) else { return };
        soon(log.close()).await.expect("nothing fails");
        self.durable(id, last + 1);
        self.closed.push(id);
    }

    async fn reopen(&mut self) {
        if let Some(id) = self.closed.pop() {
            self.open_again(id).await;
        }
    }

    async fn open_again(&mut self, id: SessionId) {
        let opened = soon(self.store.open(id)).await.expect("a session always opens");
        let open = Open::new(opened);
        let last = open.last;
        self.open.insert(id, open);
        // To own a session is to have it durable that one does.
        self.durable(id, last);
    }

    async fn fork(&mut self, parent: SessionId) {
        let at = (self.rng.bool()).then(|| self.rng.u64(1..=self.open[&parent].last));
        let opened = soon(self.store.fork(parent, at)).await.expect("nothing fails");
        let id = opened.log.id();
        let open = Open::new(opened);
        let last = open.last;
        self.open.insert(id, open);
        self.durable(id, last);
    }

    async fn remove(&mut self) {
        let Some(id) = self.closed.pop() else { return };
        self.disk.promise(Promise::Removing(id));
        soon(self.store.remove(id)).await.expect("nothing fails");
        self.disk.promise(Promise::Removed(id));
    }

    async fn compress(&mut self) {
        let Some(id) = self.closed.last().copied() else { return };
        self.disk.promise(Promise::Rewriting(id));
        soon(self.store.compress(id)).await.expect("nothing fails");
    }

    async fn archive(&mut self) {
        let Some(id) = self.closed.pop() else { return };
        self.disk.promise(Promise::Rewriting(id));
        soon(self.store.archive(id)).await.expect("nothing fails");
        self.disk.promise(Promise::Archived(id));
        self.archived.push(id);
    }

    /// Brings a session back from the archive, or opens or removes it there.
    async fn unarchive(&mut self) {
        let Some(id) = self.archived.pop() else { return };
        match self.rng.u8(..3) {
            0 => {
                self.disk.promise(Promise::Rewriting(id));
                soon(self.store.unarchive(id)).await.expect("nothing fails");
                self.closed.push(id);
            }
            1 => {
                self.disk.promise(Promise::Rewriting(id));
                self.open_again(id).await;
            }
            _ => {
                self.closed.push(id);
                self.remove().await;
            }
        }
    }

    /// The process dies, in the middle of a write perhaps, and another takes its sessions over.
    async fn kill(&mut self, tears: bool) {
        self.disk = self.disk.kill();
        self.store = store(&self.disk, "boot 1");
        for (id, open) in std::mem::take(&mut self.open) {
            let image = self.disk.image();
            if !Files::of(&image, id).cold && image.contents(&log_path(id)).is_none_or(|log| log.bytes.is_empty()) {
                // Nothing of it was written.
                continue;
            }
            if tears && self.rng.bool() {
                let torn = format!("{{\"seq\":{},\"at\":\"2026-01-01T00:00:00.000Z\",\"type\":\"note\",\"te", open.last + 1);
                self.disk.tear(&log_path(id), torn.repeat(self.rng.usize(1..20)).as_bytes());
            }
            if self.rng.u8(..4) == 0 {
                self.closed.push(id);
            } else {
                self.open_again(id).await;
            }
        }
    }
}
