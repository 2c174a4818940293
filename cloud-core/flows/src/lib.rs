//! Cloud = ledger + registry + outbox + timers + the flows; the driver holds THE order.
