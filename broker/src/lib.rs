//! The embedded MQTT broker: listeners, identity, the durable lane.
