//! Rules of MQTT that `mqtt-protocol-core` does not check. Numbers are those of MQTT 5.

use mqtt_protocol_core::mqtt::packet::Property;
use mqtt_protocol_core::mqtt::prelude::PropertyValueAccess;

use crate::types::Fault;

/// A string (MQTT-1.5.4-2). That it is well-formed UTF-8 the library has checked.
pub(crate) fn text(text: &str) -> Result<(), Fault> {
    if text.contains('\0') { Err(Fault { code: 0x81, what: "a null character in a string" }) } else { Ok(()) }
}

/// A topic that is published to (MQTT-4.7.0-1, MQTT-4.7.3-1).
pub(crate) fn topic_name(name: &str) -> Result<(), Fault> {
    text(name)?;
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(Fault { code: 0x82, what: "a topic name is empty or has a wildcard" });
    }
    Ok(())
}

/// A filter that is subscribed (MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1).
pub(crate) fn topic_filter(filter: &str) -> Result<(), Fault> {
    text(filter)?;
    let last = filter.split('/').count().saturating_sub(1);
    let whole_levels = filter.split('/').enumerate().all(|(index, level)| match level {
        "+" => true,
        "#" => index == last,
        level => !level.contains(['+', '#']),
    });
    if filter.is_empty() || !whole_levels {
        return Err(Fault {
            code: 0x82,
            what: "a topic filter is empty or has a wildcard where none may be",
        });
    }
    Ok(())
}

/// The strings in properties (MQTT-1.5.7-1, MQTT-3.3.2-14).
pub(crate) fn properties(properties: &[Property]) -> Result<(), Fault> {
    for property in properties {
        if let Property::ResponseTopic(topic) = property {
            topic_name(topic.val())?;
        } else if let Some((name, value)) = property.as_key_value() {
            text(name)?;
            text(value)?;
        } else if let Some(value) = property.as_str() {
            text(value)?;
        }
    }
    Ok(())
}
