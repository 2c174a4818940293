//! One MQTT connection as a pure state machine.
