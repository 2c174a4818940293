//! The CDDL (RFC 8610) and AsyncAPI 3 documents, generated from the declarations in [`message`](crate::message), so
//! that they cannot drift: a test compares them with the committed files.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::envelope::Envelope;
use crate::feed::FeedEvent;
use crate::message::{Down, Up};
use crate::topic::Kind;
use crate::wire::Field;

type Description = (Kind, &'static str, &'static str, Vec<Field>);

const CDDL_PRELUDE: &str = "\
; Every message of the platform. Generated from the `schemas` package; do not edit.
; Payload of ft/{tenant}/{principal}/up/{kind} and .../down/{kind}; of ft/{tenant}/feed/{kind}, where
; ft/{tenant}/feed/json/{kind} has the same as JSON. Towards observers ft/{tenant}/{principal}/state is feed-presence.

name = text .regexp \"[a-z0-9][a-z0-9-]{0,31}\"
principal = text .regexp \"[a-z0-9][a-z0-9-]{0,31}/[a-z0-9][a-z0-9-]{0,31}\"
code = text .regexp \"[a-z0-9_]{1,64}\"
money = text .regexp \"[0-9]{1,13}(\\\\.[0-9]{1,4})? [A-Z]{3}\"
text-512 = text .size (0..512)
id16 = bstr .size 16
payee = text .regexp \"guardian|(person|merchant)/[a-z0-9][a-z0-9-]{0,31}\"
quiet-hours = text .regexp \"[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]\"
allowance-schedule = { amount: money, every: \"day\" / \"week\" / \"month\", first_at: uint }
goal = { title: text-512, amount: money }
coming-allowance = { guardian: name, amount: money, every: \"day\" / \"week\" / \"month\", next_at: uint }
shown-wish = { wish: id16, to: name, text: text-512, state: text, ? reason: text-512 / null }
shown-result = { what: text-512, amount: money, state: text, at: uint }
position = { latitude_e7: int, longitude_e7: int, accuracy_m: uint, at: uint }
";

/// All messages in CDDL.
pub fn cddl() -> String {
    let mut text = CDDL_PRELUDE.to_owned();
    for (direction, messages) in [("up", Up::describe()), ("down", Down::describe())] {
        for (kind, _, doc, fields) in messages {
            let _ = write!(text, "\n;{doc}\n{direction}-{kind} = {{\n");
            for field in Envelope::<()>::fields() {
                cddl_field(&mut text, "  ", &field);
            }
            text.push_str("  body: {\n");
            for field in &fields {
                cddl_field(&mut text, "    ", field);
            }
            text.push_str("  },\n}\n");
        }
    }
    for (kind, _, doc, fields) in FeedEvent::describe() {
        let _ =
            write!(text, "\n;{doc}\nfeed-{} = {{\n  v: uint, ; Schema version.\n  body: {{\n", kind.as_str());
        for field in &fields {
            cddl_field(&mut text, "    ", field);
        }
        text.push_str("  },\n}\n");
    }
    text
}

fn cddl_field(text: &mut String, indent: &str, field: &Field) {
    let (cddl, note) = field.cddl.split_once(" ;").unwrap_or((field.cddl, ""));
    // The comma stands before any comment; ` / null` may have been appended after one.
    let (note, null) = note.strip_suffix(" / null").map_or((note, ""), |note| (note, " / null"));
    let optional = if field.cddl.ends_with(" / null") { "? " } else { "" };
    let _ = writeln!(
        text,
        "{indent}{optional}{}: {cddl}{null}, ;{}{}",
        field.name,
        field.doc,
        note_in_brackets(note)
    );
}

fn note_in_brackets(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(" ({})", note.trim()) }
}

/// All channels and messages as an AsyncAPI 3.0 document.
pub fn asyncapi() -> Value {
    let (mut channels, mut operations, mut messages) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (direction, action, described) in
        [("up", "receive", Up::describe()), ("down", "send", Down::describe())]
    {
        for (kind, name, doc, fields) in described {
            let id = format!("{direction}-{kind}");
            channels.insert(
                id.clone(),
                json!({
                    "address": format!("ft/{{tenant}}/{{principal}}/{direction}/{kind}"),
                    "messages": { name: { "$ref": format!("#/components/messages/{id}") } },
                    "parameters": { "tenant": {}, "principal": {} },
                }),
            );
            operations.insert(
                id.clone(),
                json!({ "action": action, "channel": { "$ref": format!("#/channels/{id}") } }),
            );
            messages.insert(id, message(&(kind, name, doc, fields)));
        }
    }
    for (kind, name, doc, fields) in FeedEvent::describe() {
        for (level, content_type) in [("", "application/cbor"), ("json/", "application/json")] {
            let id = format!("feed-{}{}", level.replace('/', "-"), kind.as_str());
            channels.insert(
                id.clone(),
                json!({
                    "address": format!("ft/{{tenant}}/feed/{level}{}", kind.as_str()),
                    "messages": { name: { "$ref": format!("#/components/messages/{id}") } },
                    "parameters": { "tenant": {} },
                }),
            );
            operations.insert(
                id.clone(),
                json!({ "action": "send", "channel": { "$ref": format!("#/channels/{id}") } }),
            );
            messages.insert(id, event(name, doc, &fields, content_type));
        }
    }
    channels.insert(
        "state".to_owned(),
        json!({
            "address": "ft/{tenant}/{principal}/state",
            "description": "Towards observers, retained.",
            "messages": { "PresenceEvent": { "$ref": "#/components/messages/feed-presence" } },
            "parameters": { "tenant": {}, "principal": {} },
        }),
    );
    operations
        .insert("state".to_owned(), json!({ "action": "send", "channel": { "$ref": "#/channels/state" } }));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Farthing",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages between principals (devices, people's terminals) and the cloud core. Payloads are CBOR; schemas show the same content as JSON. QoS 1; a PUBACK is a promise that the message is on disk. The feed is QoS 0, for observers.",
        },
        "defaultContentType": "application/cbor",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages },
    })
}

fn message((_, name, doc, fields): &Description) -> Value {
    let mut envelope = object(&Envelope::<()>::fields());
    envelope["properties"]["body"] = object(fields);
    if let Some(required) = envelope["required"].as_array_mut() {
        required.push(json!("body"));
    }
    json!({ "name": name, "summary": doc.trim(), "contentType": "application/cbor", "payload": envelope })
}

fn event(name: &str, doc: &str, fields: &[Field], content_type: &str) -> Value {
    let payload = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": { "v": { "type": "integer", "description": "Schema version." }, "body": object(fields) },
        "required": ["v", "body"],
    });
    json!({ "name": name, "summary": doc.trim(), "contentType": content_type, "payload": payload })
}

fn object(fields: &[Field]) -> Value {
    let properties: BTreeMap<_, _> = fields
        .iter()
        .map(|field| {
            let mut schema = field.json_schema.clone();
            schema["description"] = json!(field.doc.trim());
            (field.name, schema)
        })
        .collect();
    let required: Vec<_> = fields.iter().filter(|f| !f.cddl.ends_with(" / null")).map(|f| f.name).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties, "required": required })
}
