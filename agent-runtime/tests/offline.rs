//! Conversations with the built-in models, with the built-in tools on real files.

#![expect(clippy::disallowed_methods, reason = "a test hands over its own environment")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in helpers too")]

use agent_runtime::session_store::{Block, Clock, Profile, SessionId, StopReason, SystemClock, Todo, ToolCall, Usage};
use agent_runtime::tools::{builtin, check_arguments};
use agent_runtime::{
    Body, Clocks, Conversation, FailureKind, Interrupt, Model, ModelEvent, ModelFailure, OfflineModel, OutputSink,
    ScriptedAnswer, ScriptedModel, Sent, SentResult, ToolContext,
};
use bytes::Bytes;
use serde_json::json;
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_stream::StreamExt;

/// What a test looks at: an answer of the model.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    blocks: Vec<Block>,
    usage: Usage,
    stop: StopReason,
}

async fn ask(model: &dyn Model, conversation: &Conversation) -> Result<Answer, ModelFailure> {
    let mut stream = model.call(model.body(conversation).into(), &Clocks::default()).await?;
    let (mut text, mut blocks, mut usage) = (String::new(), Vec::new(), Usage::default());
    while let Some(event) = stream.next().await {
        match event? {
            ModelEvent::Text(piece) => text.push_str(&piece),
            ModelEvent::Block(block) => blocks.push(block),
            ModelEvent::Usage(now) => usage = now,
            ModelEvent::Done { stop, .. } => return Ok(Answer { text, blocks, usage, stop }),
            _ => {}
        }
    }
    Ok(Answer { text, blocks, usage, stop: StopReason::Cut })
}

/// A chat with the offline model: the loop in its smallest form.
struct Chat {
    dir: TempDir,
    conversation: Conversation,
    todos: Vec<Vec<Todo>>,
    called: Vec<String>,
}

impl Chat {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::with_tools(files, &["edit", "list", "read", "search", "shell", "todo", "write"])
    }

    fn with_tools(files: &[(&str, &str)], tools: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tools = builtin().iter().map(|tool| tool.spec()).filter(|spec| tools.contains(&spec.name.as_str())).collect();
        let conversation = Conversation { profile: Arc::new(profile(tools)), max_output_tokens: 1000, messages: Vec::new() };
        Self { dir, conversation, todos: Vec::new(), called: Vec::new() }
    }

    /// One turn: the last answer's text.
    async fn say(&mut self, prompt: &str) -> String {
        let model = OfflineModel::with_word_delay(Duration::ZERO);
        self.conversation.messages.push(Sent::User(vec![prompt.into()]));
        for _ in 0..20 {
            let answer = ask(&model, &self.conversation).await.expect("it answers");
            assert_eq!(answer, ask(&model, &self.conversation).await.unwrap(), "the same conversation, the same answer");
            let calls: Vec<ToolCall> = answer
                .blocks
                .iter()
                .filter_map(|block| if let Block::ToolCall(call) = block { Some(call.clone()) } else { None })
                .collect();
            self.conversation.messages.push(Sent::Assistant { blocks: answer.blocks, opaque: None });
            if calls.is_empty() {
                assert_eq!(answer.stop, StopReason::EndTurn);
                return answer.text;
            }
            assert_eq!(answer.stop, StopReason::ToolUse);
            let mut results = Vec::new();
            for call in &calls {
                results.push(self.run(call).await);
            }
            self.conversation.messages.push(Sent::ToolResults(results));
        }
        panic!("the turn does not end");
    }

    async fn run(&mut self, call: &ToolCall) -> SentResult {
        self.called.push(call.name.clone());
        let tool =
            builtin().into_iter().find(|tool| tool.spec().name == call.name).expect("only tools that are there are called");
        let context = ToolContext {
            session: SessionId::new(SystemClock.now()),
            call: call.provider_id.clone(),
            cwd: self.dir.path().to_owned(),
            add_dirs: Vec::new(),
            env: Arc::new(vec![("PATH".into(), std::env::var("PATH").unwrap())]),
            interrupt: Interrupt::new(),
            todos: Arc::default(),
            output: OutputSink::default(),
        };
        let (output, is_error) = match check_arguments(&tool.spec(), &call.arguments) {
            Err(wrong) => (wrong, true),
            Ok(arguments) => match tool.run(arguments, context).await {
                Ok(output) => {
                    self.todos.extend(output.todos);
                    (output.text, false)
                }
                Err(error) => (error.0, true),
            },
        };
        SentResult { id: call.provider_id.clone(), name: call.name.clone(), output, is_error, images: Vec::new() }
    }
}

fn profile(tools: Vec<agent_runtime::session_store::ToolSpec>) -> Profile {
    Profile {
        hash: String::new(),
        model: "offline".into(),
        system: "Be brief.".into(),
        tools,
        parameters: Default::default(),
        projection: 1,
    }
    .sealed()
}

const INTRODUCTION: &str =
    "*I am the offline model that is built in: no language model was asked, and nothing left this machine.*\n\n";

#[tokio::test]
async fn the_first_question_is_answered_with_facts_about_the_folder() {
    let mut chat = Chat::new(&[
        ("README.md", "# Wonders\n\n[badge](x)\n\nA list of **wonders**.\n\n## More\n"),
        ("src/a.rs", ""),
        ("x.rs", ""),
        ("y.rs", ""),
    ]);
    let answer = chat.say("What is in this folder?").await;
    assert_eq!(
        answer,
        format!(
            "{INTRODUCTION}This folder holds **1 directory** and **3 files**.\n\n\
             - Directories: `src/`\n- Files: `README.md`, `x.rs`, `y.rs`\n- Most files (2) end in `.rs`\n\n\
             `README.md` has **7 lines**. Its first heading is **Wonders**, followed by 1 more.\n\n> A list of **wonders**."
        )
    );
    assert_eq!(chat.called, ["list", "read"]);
}

#[tokio::test]
async fn a_first_prompt_that_it_does_not_understand_makes_it_look_around() {
    let mut chat = Chat::new(&[]);
    assert_eq!(chat.say("Hello!").await, format!("{INTRODUCTION}This folder is empty."));
    let second = chat.say("Hello again!").await;
    assert!(second.starts_with("I see 1 message before this one. I understand a few requests"), "{second}");
    assert_eq!(chat.called, ["list"]);
}

#[tokio::test]
async fn single_requests_call_their_tool_and_tell_what_came_of_it() {
    let mut chat = Chat::new(&[("a.txt", "one\ntwo\n"), ("src/b.txt", "two (too)\n")]);
    assert_eq!(chat.say("read `a.txt`").await, format!("{INTRODUCTION}`a.txt` has **2 lines**.\n\n> one"));
    assert_eq!(chat.say("Please show me the file src/b.txt.").await, "`src/b.txt` has **1 line**.\n\n> two (too)");
    let found = "I found **2 matching lines**:\n\n- `a.txt` line 2: `two`\n- `src/b.txt` line 1: `two (too)`";
    assert_eq!(chat.say("search for \"two\"").await, found);
    assert_eq!(chat.say("search two (too) in src").await, "I found **1 matching line**:\n\n- `src/b.txt` line 1: `two (too)`");
    assert_eq!(chat.say("find absent").await, "Nothing matches.");
    assert_eq!(chat.say("write notes/n.md: # Hi").await, "Created `notes/n.md` (5 bytes).");
    assert_eq!(fs::read_to_string(chat.dir.path().join("notes/n.md")).unwrap(), "# Hi\n");
    assert_eq!(chat.say("replace \"Hi\" with \"Ho\" in notes/n.md").await, "Replaced 1 occurrence in `notes/n.md`, at line 1.");
    assert_eq!(chat.say("list notes").await, "`notes` holds **0 directories** and **1 file**.\n\n- Files: `n.md`");
    assert_eq!(chat.say("run echo a; exit 2").await, "`echo a; exit 2` gave:\n\n```text\na\n[exit status 2]\n```");
    let absent = chat.say("read absent.txt").await;
    assert!(absent.starts_with("`read` did not do it: cannot read `absent.txt`"), "{absent}");
}

#[tokio::test]
async fn several_steps_are_done_in_turn_on_a_todo_list() {
    let mut chat = Chat::new(&[("README.md", "# T\n")]);
    let answer = chat.say("First list here, then write a.txt: hello, and then read a.txt").await;
    assert!(answer.starts_with(&format!("{INTRODUCTION}**1. List `.`.** This folder holds")), "{answer}");
    assert!(answer.ends_with("**3. Read `a.txt`.** `a.txt` has **1 line**.\n\n> hello"), "{answer}");
    let states: Vec<String> = chat
        .todos
        .iter()
        .map(|list| list.iter().map(|todo| serde_json::to_string(&todo.status).unwrap()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        states,
        [
            r#""in_progress" "pending" "pending""#,
            r#""completed" "in_progress" "pending""#,
            r#""completed" "completed" "in_progress""#,
            r#""completed" "completed" "completed""#,
        ]
    );
    assert_eq!(chat.say("plan buy milk; drink it").await, "The todo list has 2 items now.");
    assert_eq!(chat.todos.last().unwrap()[1].content, "drink it");
}

#[tokio::test]
async fn it_remembers_what_was_said() {
    let mut chat = Chat::new(&[]);
    assert_eq!(chat.say("What did I say first?").await, format!("{INTRODUCTION}You have said nothing before this."));
    chat.say("Blue.").await;
    assert_eq!(chat.say("What did I say last?").await, "Your last message that I can see was:\n\n> Blue.");
    assert_eq!(chat.say("what did I say first?").await, "Your first message that I can see was:\n\n> What did I say first?");
}

#[tokio::test]
async fn only_tools_of_the_profile_are_called() {
    let mut chat = Chat::with_tools(&[("x", "")], &["read"]);
    for prompt in ["hello", "run ls", "search x", "list here then read x", "plan x", "offline: shell ls", "offline: steps 3"] {
        chat.say(prompt).await;
    }
    assert_eq!(chat.called, Vec::<String>::new());
    let mut without_todo = Chat::with_tools(&[("x", "y\n")], &["read", "list"]);
    without_todo.say("list here then read x").await;
    assert_eq!(without_todo.called, ["list", "read"]);
}

#[tokio::test]
async fn offline_commands_do_what_they_say() {
    let mut chat = Chat::new(&[("a", "1\n"), ("b", "2\n")]);
    assert_eq!(chat.say("offline: repeat  exactly this ").await, "exactly this");
    assert_eq!(chat.say("offline: shell echo x; echo y").await, "`shell` gave:\n\nx\ny");
    assert_eq!(chat.say("offline: parallel reads a b").await, "`read` gave:\n\n     1\t1\n\n`read` gave:\n\n     1\t2");
    let bad = chat.say("offline: bad-arguments").await;
    assert!(bad.starts_with("`read` failed:\n\nthe arguments of `read` are not valid JSON"), "{bad}");
    assert_eq!(
        chat.say("offline: call write {\"path\":\"c\",\"content\":\"\"}").await,
        "`write` gave:\n\nCreated `c` (0 bytes)."
    );
    assert_eq!(chat.say("offline: steps 3").await, "I did 3 steps.");
    assert_eq!(chat.say("offline: slow 3 words 1 ms").await, "word1 word2 word3");
    assert_eq!(chat.say("offline: nonsense").await, "There is no command `offline: nonsense`.");
    let ids: Vec<&String> = chat
        .conversation
        .messages
        .iter()
        .filter_map(|message| if let Sent::ToolResults(results) = message { Some(results) } else { None })
        .flatten()
        .map(|result| &result.id)
        .collect();
    assert_eq!(ids, ["offline_0", "offline_1", "offline_2", "offline_3", "offline_4", "offline_5", "offline_6", "offline_7"]);
}

#[tokio::test(start_paused = true)]
async fn offline_failures_come_as_those_of_a_real_model_do() {
    let model = OfflineModel::new();
    let said = |text: &str| user(vec![text]);
    let fail = ask(&model, &said("offline: fail")).await.unwrap_err();
    assert!(fail.kind.cure() == agent_runtime::Cure::Nothing && !fail.kind.is_timeout());
    assert_eq!(ask(&model, &said("offline: fail server")).await.unwrap_err().kind, FailureKind::Server);
    let cut = ask(&model, &said("offline: cut")).await.unwrap();
    assert_eq!((cut.stop, cut.blocks.len(), cut.text.is_empty()), (StopReason::Cut, 0, false));
    assert_eq!(ask(&model, &said("offline: max-tokens")).await.unwrap().stop, StopReason::MaxTokens);
    assert_eq!(ask(&model, &said("offline: hang")).await.unwrap_err().kind, FailureKind::ProgressTimeout);
    let start = tokio::time::Instant::now();
    ask(&model, &said("offline: sleep 2.5 s before answering")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(2500));
    let thought = ask(&model, &said("offline: think hard")).await.unwrap();
    assert_eq!(thought.blocks[0], Block::Reasoning { text: "hard".into(), opaque: None });
}

#[tokio::test]
async fn offline_usage_is_a_quarter_of_the_bytes() {
    let model = OfflineModel::with_word_delay(Duration::ZERO);
    let conversation = user(vec!["offline: repeat 12345"]);
    let answer = ask(&model, &conversation).await.unwrap();
    let sent = model.body(&conversation).len() as u64;
    assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (Some(sent.div_ceil(4)), Some(2)));
    assert_eq!(
        model.call(Body::from(Bytes::from("no json")), &Clocks::default()).await.err().map(|failure| failure.kind),
        Some(FailureKind::BadRequest)
    );
}

fn user(texts: Vec<&str>) -> Conversation {
    let messages = vec![Sent::User(texts.into_iter().map(Into::into).collect())];
    Conversation { profile: Arc::new(profile(Vec::new())), max_output_tokens: 100, messages }
}

#[tokio::test(start_paused = true)]
async fn a_script_is_played_in_order_and_its_requests_are_kept() {
    let opaque = json!({"signature": "s"});
    let model = ScriptedModel::new([
        ScriptedAnswer::new()
            .reasoning("hm", Some(opaque.clone()))
            .text("Let me ")
            .wait(Duration::from_secs(200))
            .text("look.")
            .tool_call("list", "{}")
            .tool_call("read", "{broken"),
        ScriptedAnswer::failure(ModelFailure::new(FailureKind::Overloaded, "busy")),
        ScriptedAnswer::new()
            .text("Done.")
            .usage(Usage { output_tokens: Some(7), ..Usage::default() })
            .done(StopReason::Refusal, None),
    ]);
    let first = ask(&model, &user(vec!["one"])).await.unwrap();
    let call = |index: usize, name: &str, arguments: &str| {
        let provider_id = format!("scripted_1_{index}");
        Block::ToolCall(ToolCall { id: String::new(), provider_id, name: name.into(), arguments: arguments.into() })
    };
    assert_eq!(first.stop, StopReason::ToolUse);
    assert_eq!(
        first.blocks,
        [
            Block::Reasoning { text: "hm".into(), opaque: Some(opaque) },
            Block::Text { text: "Let me look.".into() },
            call(0, "list", "{}"),
            call(1, "read", "{broken"),
        ]
    );
    assert_eq!(ask(&model, &user(vec!["two"])).await.unwrap_err().kind, FailureKind::Overloaded);
    let third = ask(&model, &user(vec!["three"])).await.unwrap();
    assert_eq!((third.text.as_str(), third.stop, third.usage.output_tokens), ("Done.", StopReason::Refusal, Some(7)));
    assert_eq!(ask(&model, &user(vec!["four"])).await.unwrap_err().kind, FailureKind::BadRequest, "the script is over");
    assert_eq!(model.requests(), ["one", "two", "three", "four"].map(|word| user(vec![word])));
    assert_eq!(model.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_script_can_cut_fail_and_hang_where_it_likes() {
    let broken = ModelFailure::new(FailureKind::Reset, "connection reset");
    let model = ScriptedModel::new([
        ScriptedAnswer::new().text("half").cut(),
        ScriptedAnswer::new().text("half").fail(broken.clone()),
        ScriptedAnswer::new().text("half").hang(),
        ScriptedAnswer::new().head_after(Duration::MAX),
        ScriptedAnswer::new().head_after(Duration::from_secs(100)).text("late"),
    ]);
    let cut = ask(&model, &user(vec!["x"])).await.unwrap();
    assert_eq!((cut.text.as_str(), cut.stop, cut.blocks), ("half", StopReason::Cut, Vec::new()));
    assert_eq!(ask(&model, &user(vec!["x"])).await.unwrap_err(), broken);
    let start = tokio::time::Instant::now();
    assert_eq!(ask(&model, &user(vec!["x"])).await.unwrap_err().kind, FailureKind::ProgressTimeout);
    assert_eq!(start.elapsed().as_secs(), 300);
    assert_eq!(ask(&model, &user(vec!["x"])).await.unwrap_err().kind, FailureKind::FirstByteTimeout);
    assert_eq!(ask(&model, &user(vec!["x"])).await.unwrap().text, "late");
}

#[tokio::test]
async fn a_task_of_many_steps_ends_though_its_beginning_was_trimmed() {
    let mut chat = Chat::new(&[]);
    chat.say("offline: steps 5").await;
    // As a trim leaves it: the prompt, the note, and the last step.
    let messages = &mut chat.conversation.messages;
    let note = "[6 earlier messages were left out of this conversation to fit the context window.]";
    messages.truncate(9);
    messages.drain(1..7);
    messages[0] = Sent::User(vec!["offline: steps 5".into(), note.into()]);
    let model = OfflineModel::with_word_delay(Duration::ZERO);
    let next = ask(&model, &chat.conversation).await.unwrap();
    assert_eq!((next.text.as_str(), next.stop), ("Step 5.", StopReason::ToolUse));
}
