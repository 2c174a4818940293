//! Buttons on a Linux input device. The kernel's `struct input_event` is read as it is: the crate `evdev` asks each
//! device about itself by ioctl, which a file or FIFO in a test can't answer, and this needs nothing of that.

use std::fs::File;
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use edge_agent_device::ButtonSettings;
use schemas::message::ChildAnswer;

use super::Keys;
use crate::clock::boot_ms;

/// Two words of time, then type (u16), code (u16) and value (i32), all in the machine's own order
/// (`linux/input.h`).
const TIME_BYTES: usize = 2 * size_of::<usize>();
const EVENT_BYTES: usize = TIME_BYTES + 8;
const EV_KEY: u16 = 1;
/// Value of a press; 0 is a release, 2 a repeat while it is held.
const PRESSED: i32 = 1;
/// A device that is gone is looked for again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Reads on a thread of its own, since a read waits for the next press. It ends with the process.
pub(super) fn start(settings: ButtonSettings, mut keys: Keys) -> io::Result<()> {
    let watch = move || {
        let mut complained = false;
        while !keys.inputs.is_closed() {
            match read(&settings, &mut keys) {
                Ok(()) => complained = false,
                Err(error) if !complained => {
                    complained = true;
                    let device = &settings.device;
                    tracing::warn!(device, %error, "no buttons: check the path, and that this user may read it");
                }
                Err(_) => {}
            }
            thread::sleep(RETRY);
        }
    };
    thread::Builder::new().name("buttons".to_owned()).spawn(watch).map(drop)
}

/// Until the device is gone.
fn read(settings: &ButtonSettings, keys: &mut Keys) -> io::Result<()> {
    let mut device = File::open(&settings.device)?;
    let mut event = [0; EVENT_BYTES];
    loop {
        match device.read_exact(&mut event) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let Some(code) = pressed(&event) else { continue };
        let answer = if settings.confirm.contains(&code) {
            ChildAnswer::Confirm
        } else if settings.reject.contains(&code) {
            ChildAnswer::Reject
        } else {
            continue;
        };
        if !keys.press(answer, boot_ms()) {
            return Ok(());
        }
    }
}

/// The key code, if the event is a press.
fn pressed(event: &[u8; EVENT_BYTES]) -> Option<u16> {
    let (_, event) = event.split_at(TIME_BYTES);
    let [kind_0, kind_1, code_0, code_1, value @ ..] = event else { return None };
    let is_press = u16::from_ne_bytes([*kind_0, *kind_1]) == EV_KEY
        && i32::from_ne_bytes(value.try_into().ok()?) == PRESSED;
    is_press.then(|| u16::from_ne_bytes([*code_0, *code_1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_BYTES] {
        let mut event = [7; EVENT_BYTES];
        event[TIME_BYTES..][..2].copy_from_slice(&kind.to_ne_bytes());
        event[TIME_BYTES + 2..][..2].copy_from_slice(&code.to_ne_bytes());
        event[TIME_BYTES + 4..].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_presses_of_keys_are_presses() {
        for (kind, value, expected) in
            [(EV_KEY, 1, Some(0x131)), (EV_KEY, 0, None), (EV_KEY, 2, None), (0, 1, None), (4, 1, None)]
        {
            assert_eq!(pressed(&event(kind, 0x131, value)), expected, "type {kind} value {value}");
        }
        if cfg!(target_pointer_width = "64") {
            assert_eq!(EVENT_BYTES, 24);
        }
    }
}
