//! `--output-schema`: the answer is JSON that fits, or the program says that it is not.

use crate::support::{Machine, Protocol};
use fault_server::Answer;
use serde_json::{Value, json};

fn schema() -> Value {
    json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false})
}

/// The schema in the provider's own place for it.
fn asked(protocol: Protocol, body: &Value) -> Value {
    match protocol {
        Protocol::Anthropic => body["output_config"]["format"]["schema"].clone(),
        Protocol::OpenAi => body["response_format"]["json_schema"]["schema"].clone(),
        Protocol::Responses => body["text"]["format"]["schema"].clone(),
    }
}

fn arguments(schema: &Value) -> [String; 5] {
    ["--output-format", "json", "--output-schema", &schema.to_string(), "how old?"].map(str::to_owned)
}

#[test]
fn each_provider_is_asked_in_its_own_way_and_an_answer_that_does_not_fit_is_asked_for_once_more() {
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(protocol, [Answer::text("{\"age\": \"seven\"}"), Answer::text("{\"age\": 7}")]);
        let run = machine.print(&arguments(&schema())).finish();
        run.assert_code(0);
        assert_eq!(run.result()["structured_output"], json!({"age": 7}), "{protocol:?}");
        assert_eq!(run.result()["result"], "{\"age\": 7}");
        let requests = machine.server.requests();
        assert_eq!(requests.len(), 2);
        for request in &requests {
            assert_eq!(asked(protocol, &request.body), schema(), "{protocol:?}");
        }
        let said = requests[1].messages().last().expect("a message").to_string();
        assert!(said.contains("at `/age`"), "the model is told what was wrong: {said}");
        assert_eq!(machine.server.refusals(), Vec::<String>::new(), "{protocol:?}");

        // The session goes on without it, where it is not asked for.
        machine.assert_goes_on();
        let last = machine.server.requests().pop().expect("a request");
        assert_eq!(asked(protocol, &last.body), Value::Null, "{protocol:?}");
    }
}

#[test]
fn an_answer_that_does_not_fit_twice_is_a_failure() {
    let machine = Machine::new([Answer::text("seven"), Answer::text("really seven"), Answer::text("never asked for")]);
    let run = machine.print(&arguments(&schema())).finish();
    run.assert_code(1);
    let result = run.result();
    assert_eq!(
        (&result["stop_reason"], &result["is_error"], &result["result"]),
        (&json!("error"), &json!(true), &json!("really seven"))
    );
    assert!(result.get("structured_output").is_none(), "{result}");
    assert!(result["error"].as_str().is_some_and(|error| error.contains("does not fit the schema")), "{result}");
    assert_eq!(machine.server.requests().len(), 2);
    machine.assert_goes_on();
}

#[test]
fn a_schema_that_a_provider_does_not_enforce_is_told_to_the_model_and_enforced_here() {
    let open = json!({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}});
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(protocol, [Answer::text("{\"age\": -1}"), Answer::text("{\"age\": 7}")]);
        let run = machine.print(&arguments(&open)).finish();
        run.assert_code(0);
        assert_eq!(run.result()["structured_output"], json!({"age": 7}));
        let body = &machine.server.requests()[0].body;
        assert!(body.to_string().contains("minimum"), "the model knows the schema: {protocol:?}");
        if protocol == Protocol::Anthropic {
            assert!(body.get("output_config").is_none() && body["system"].to_string().contains("JSON Schema"));
        }
        assert_eq!(machine.server.refusals(), Vec::<String>::new(), "{protocol:?}");
    }
}

#[test]
fn a_server_that_knows_no_schemas_is_asked_without_and_the_model_is_told_in_words() {
    let refusal = Answer::error(400, "Unrecognized request argument supplied: response_format");
    let machine = Machine::speaking(Protocol::OpenAi, [refusal, Answer::text("{\"age\": 7}")]);
    let run = machine.print(&arguments(&schema())).finish();
    run.assert_code(0);
    assert_eq!(run.result()["structured_output"], json!({"age": 7}));
    let body = &machine.server.requests()[1].body;
    assert!(body.get("response_format").is_none() && body["messages"][0].to_string().contains("JSON Schema"), "{body}");
}

#[test]
fn a_schema_may_be_in_a_file_and_a_bad_one_is_wrong_usage() {
    let machine = Machine::new([Answer::text("{\"age\": 7}")]);
    std::fs::write(machine.project().join("schema.json"), schema().to_string()).expect("a file");
    for bad in ["missing.json", "{\"type\": \"nothing\"}", "{"] {
        let run = machine.print(&["--output-schema", bad, "how old?"]).finish();
        assert_eq!((run.code, machine.server.requests().len()), (Some(2), 0), "{run:?}");
    }
    let run = machine.print(&["--json-schema", "schema.json", "how old?"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "{\"age\": 7}\n"), "{run:?}");
}

#[test]
fn the_offline_model_answers_with_json_that_fits_or_says_why_it_cannot() {
    let machine = Machine::new([]);
    let offline = |schema: &Value, prompt: &str| {
        let schema = schema.to_string();
        machine.longhand(&["-p", "-m", "offline", "--output-format", "json", "--output-schema", &schema, prompt]).finish()
    };
    for prompt in ["What is in this folder?", "offline: steps 2", "offline: repeat {\"age\": 7}"] {
        let run = offline(&schema(), prompt);
        run.assert_code(0);
        assert!(run.result()["structured_output"]["age"].is_i64(), "{run:?}");
    }
    let run = offline(&json!({"type": "string", "pattern": "^[0-9]{4}$"}), "Which year?");
    run.assert_code(3);
    assert!(run.result()["error"].as_str().is_some_and(|error| error.contains("does not match \"^[0-9]{4}$\"")), "{run:?}");
}
