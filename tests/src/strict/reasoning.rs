//! Reasoning that is bound to what came before it, as Anthropic's preserved thinking is.
//!
//! The signature of a block is a hash over the system text, the tools, every message before its own, the blocks before it in
//! its own message, and its own words. A request that brings the block back with any of these changed is refused. Earlier reasoning is part of
//! what came before, so a block that was left out or moved makes all later ones invalid. Ids of tool calls in the block's own message do not
//! count, because a client may name calls in its own way; once sent, the ids are part of the prefix of what follows.
//!
//! What a signature cannot show is that the *last* reasoning was left out. While a tool call is being answered, that is refused as well, by
//! what the server remembers of its own replies ([`Reasoned`]).

use super::anthropic::{blocks, is_thinking};
use super::{canonical, messages};
use crate::answer::{Part, Reply};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The signature of reasoning with the words `text`, made in answer to `body`, after `before` in the same message.
#[must_use]
pub fn sign(body: &Value, before: &[Value], text: &str) -> String {
    signature(&prefix(body, messages(body)), before, text)
}

/// What every signature in a message covers of the conversation before it.
fn prefix(body: &Value, messages: &[Value]) -> Value {
    canonical(&json!({"provider": "anthropic", "system": body["system"], "tools": body["tools"], "messages": messages}))
}

fn signature(prefix: &Value, before: &[Value], text: &str) -> String {
    let before: Vec<Value> = before.iter().map(without_id).collect();
    let covered = json!([prefix, canonical(&Value::Array(before)), text]);
    let hash = Sha256::digest(covered.to_string().as_bytes());
    hash.iter().fold(String::from("sig_"), |hex, byte| hex + &format!("{byte:02x}"))
}

fn without_id(block: &Value) -> Value {
    let mut block = block.clone();
    if let Some(fields) = block.as_object_mut() {
        fields.remove("id");
    }
    block
}

/// Whether every reasoning block in `body` is where it was made, after what it was made after.
///
/// # Errors
/// The message of the 400 that the service would answer.
pub fn check_signatures(body: &Value) -> Result<(), String> {
    let messages = messages(body);
    for (index, message) in messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant") {
        let blocks = blocks(message);
        if !blocks.iter().any(|block| is_thinking(&block["type"])) {
            continue;
        }
        let prefix = prefix(body, &messages[..index]);
        for (place, block) in blocks.iter().enumerate().filter(|(_, block)| is_thinking(&block["type"])) {
            let (text, told) = match block["type"].as_str() {
                Some("redacted_thinking") => ("", &block["data"]),
                _ => (block["thinking"].as_str().unwrap_or_default(), &block["signature"]),
            };
            if *told != signature(&prefix, &blocks[..place], text) {
                let kind = block["type"].as_str().unwrap_or_default();
                return Err(format!(
                    "messages.{index}.content.{place}: Invalid `signature` in `{kind}` block. The block is bound to a different conversation. Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to \"drop_block\"."
                ));
            }
        }
    }
    Ok(())
}

/// A complete reply that reasoned and called tools: while the calls are answered, its reasoning has to come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Reasoned {
    prefix: Value,
    blocks: usize,
}

impl Reasoned {
    /// What to remember of `reply` to `body`: nothing where it did not both reason and call tools.
    #[must_use]
    pub fn new(body: &Value, reply: &Reply) -> Option<Self> {
        let blocks = reply.parts.iter().filter(|part| matches!(part, Part::Reasoning(_) | Part::RedactedReasoning)).count();
        let calls = reply.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        (blocks > 0 && calls).then(|| Self { prefix: prefix(body, messages(body)), blocks })
    }
}

/// Whether the tool calls that `body` answers, at its end, come with the reasoning that led to them.
///
/// # Errors
/// The message of the 400 that the service would answer.
pub fn check_reasoning_kept(body: &Value, reasoned: &[Reasoned]) -> Result<(), String> {
    let messages = messages(body);
    let [before @ .., answer, results] = messages else { return Ok(()) };
    if !blocks(results).iter().any(|block| block["type"] == "tool_result") {
        return Ok(());
    }
    let prefix = prefix(body, before);
    let kept = blocks(answer).iter().filter(|block| is_thinking(&block["type"])).count();
    // The newest reply to these messages counts: an earlier one was given up and asked for again.
    match reasoned.iter().rev().find(|reasoned| reasoned.prefix == prefix) {
        Some(reasoned) if reasoned.blocks != kept => Err(format!(
            "messages.{}.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. These blocks must remain as they were in the original response.",
            before.len()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strict::check_append_only;

    /// Two rounds of a conversation whose answers reason, with the signatures that the server would have made.
    fn conversation() -> Value {
        let mut body = json!({"model": "m", "system": "s", "tools": [], "messages": [{"role": "user", "content": "one"}]});
        for (said, next) in [("first", "two"), ("second", "three")] {
            let signature = sign(&body, &[], said);
            let answer = json!({"role": "assistant", "content": [
                {"type": "thinking", "thinking": said, "signature": signature}, {"type": "text", "text": "answer"}]});
            let messages = body["messages"].as_array_mut().expect("messages");
            messages.push(answer);
            messages.push(json!({"role": "user", "content": next}));
        }
        body
    }

    #[track_caller]
    fn refused(pointer: &str, value: Value, at: &str) {
        let mut body = conversation();
        *body.pointer_mut(pointer).expect("the place exists") = value;
        let refusal = check_signatures(&body).expect_err("the prefix changed");
        assert!(refusal.starts_with(at) && refusal.contains("bound to a different conversation"), "{refusal}");
    }

    #[test]
    fn reasoning_in_its_place_is_accepted() {
        assert_eq!(check_signatures(&conversation()), Ok(()));
    }

    #[test]
    fn marks_for_the_cache_and_another_spelling_of_the_same_are_no_change() {
        let mut body = conversation();
        body["messages"][0] =
            json!({"content": [{"type": "text", "cache_control": {"type": "ephemeral"}, "text": "one"}], "role": "user"});
        assert_eq!(check_signatures(&body), Ok(()));
        assert_eq!(check_append_only(&conversation(), &body), Ok(()));
    }

    #[test]
    fn anything_changed_before_reasoning_is_refused_at_the_first_block_behind_it() {
        refused("/system", json!("another"), "messages.1.content.0");
        refused("/tools", json!([{"name": "new"}]), "messages.1.content.0");
        refused("/messages/0/content", json!("One"), "messages.1.content.0");
        refused("/messages/1/content/1/text", json!("edited"), "messages.3.content.0");
        refused("/messages/2/content", json!("2"), "messages.3.content.0");
    }

    #[test]
    fn reasoning_that_is_edited_moved_or_left_out_is_refused() {
        refused("/messages/1/content/0/thinking", json!("edited"), "messages.1.content.0");
        refused("/messages/3/content/0/signature", json!("sig_0"), "messages.3.content.0");
        let mut moved = conversation();
        moved["messages"][3]["content"].as_array_mut().expect("blocks").swap(0, 1);
        assert!(check_signatures(&moved).is_err());
        let mut left_out = conversation();
        left_out["messages"][1]["content"].as_array_mut().expect("blocks").remove(0);
        assert!(check_signatures(&left_out).expect_err("left out").starts_with("messages.3.content.0"));
    }

    #[test]
    fn reasoning_left_out_behind_a_change_is_accepted() {
        let mut body = conversation();
        body["messages"][0]["content"] = json!("trimmed");
        for message in [1, 3] {
            body["messages"][message]["content"].as_array_mut().expect("blocks").remove(0);
        }
        assert_eq!(check_signatures(&body), Ok(()));
    }

    #[test]
    fn reasoning_has_to_come_back_while_its_tool_call_is_answered() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "go"}]});
        let reply = Reply::reasoning("hm").then_tool_call("read", "{}");
        let reasoned: Vec<Reasoned> = Reasoned::new(&body, &reply).into_iter().collect();
        let mut next = body.clone();
        let messages = next["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": sign(&body, &[], "hm")},
            {"type": "tool_use", "id": "mine", "name": "read", "input": {}}]}));
        messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "mine", "content": "x"}]}));
        assert_eq!(check_signatures(&next), Ok(()));
        assert_eq!(check_reasoning_kept(&next, &reasoned), Ok(()));
        next["messages"][1]["content"].as_array_mut().expect("blocks").remove(0);
        let refusal = check_reasoning_kept(&next, &reasoned).expect_err("left out");
        assert!(refusal.starts_with("messages.1.content.0: `thinking` or `redacted_thinking` blocks in the latest"), "{refusal}");
    }

    #[test]
    fn a_changed_earlier_message_is_no_append() {
        let before = conversation();
        let mut after = conversation();
        after["messages"].as_array_mut().expect("messages").push(json!({"role": "assistant", "content": "x"}));
        assert_eq!(check_append_only(&before, &after), Ok(()));
        assert!(check_append_only(&after, &before).is_err());
        after["messages"][2]["content"] = json!("edited");
        assert!(check_append_only(&before, &after).expect_err("edited").starts_with("messages.2 changed"));
        after["system"] = json!("edited");
        assert_eq!(check_append_only(&before, &after), Err("`system` changed".into()));
    }
}
