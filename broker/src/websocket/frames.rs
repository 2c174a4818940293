//! What a server receives in frames (RFC 6455, section 5), as the bytes that they carry.

use std::fmt;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// The longest header of a client: two bytes, eight of length, four of mask.
const HEADER_BYTES: usize = 14;
/// RFC 6455, 5.5.
const CONTROL_BYTES: u64 = 125;

/// Why a server says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// 1000
    Normal,
    /// 1002: unmasked, reserved bits, fragments out of order.
    Protocol,
    /// 1003: a text frame (MQTT-6.0.0-1).
    Unsupported,
}

impl Close {
    fn code(self) -> u16 {
        match self {
            Close::Normal => 1000,
            Close::Protocol => 1002,
            Close::Unsupported => 1003,
        }
    }
}

impl std::error::Error for Close {}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Close::Normal => "the WebSocket is closed",
            Close::Protocol => "the frame breaks the WebSocket protocol",
            Close::Unsupported => "MQTT travels in binary frames only",
        })
    }
}

/// Between two reads.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    frame: Option<Frame>,
    /// Of the control frame that is being received.
    control: Vec<u8>,
    /// A message was begun and is continued.
    in_message: bool,
    /// A whole frame that answers the latest ping, or says goodbye.
    answer: Option<Vec<u8>>,
    /// The peer has said goodbye, or broken the protocol: nothing it sends counts any more.
    ended: bool,
    /// So have we.
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
    /// Which byte of the mask is next.
    at: usize,
}

impl Frames {
    /// Takes received bytes; what they carry is moved to their beginning and counted. After a violation, or the peer's
    /// goodbye, everything is ignored.
    pub(super) fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, Close> {
        let (mut read, mut carried) = (0, 0);
        while read < bytes.len() && !self.ended {
            let Some(mut frame) = self.frame.take() else {
                self.header[self.header_bytes] = bytes[read];
                self.header_bytes += 1;
                read += 1;
                self.begin_frame().inspect_err(|why| self.refuse(*why))?;
                continue;
            };
            let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len() - read);
            for byte in &mut bytes[read..read + here] {
                *byte ^= frame.mask[frame.at];
                frame.at = (frame.at + 1) % 4;
            }
            if frame.opcode == BINARY {
                bytes.copy_within(read..read + here, carried);
                carried += here;
            } else {
                self.control.extend_from_slice(&bytes[read..read + here]);
            }
            read += here;
            frame.left -= here as u64;
            self.go_on(frame);
        }
        Ok(carried)
    }

    /// The peer is gone: a read finds the end.
    pub(super) fn is_closed(&self) -> bool {
        self.ended
    }

    /// A frame to be sent before anything else.
    pub(super) fn take_answer(&mut self) -> Option<Vec<u8>> {
        self.answer.take()
    }

    /// Says goodbye, once.
    pub(super) fn close(&mut self, why: Close) {
        self.say_goodbye(&why.code().to_be_bytes());
    }

    fn refuse(&mut self, why: Close) {
        self.ended = true;
        self.close(why);
    }

    fn say_goodbye(&mut self, payload: &[u8]) {
        if !self.closed {
            self.closed = true;
            self.answer = Some(frame(CLOSE, payload));
        }
    }

    /// Goes on with a frame, whose control payload counts when it is whole.
    fn go_on(&mut self, current: Frame) {
        if current.left > 0 {
            self.frame = Some(current);
            return;
        }
        match current.opcode {
            CLOSE => {
                self.ended = true;
                let code = self.control.get(..2).unwrap_or_default().to_vec();
                self.say_goodbye(&code);
            }
            // RFC 6455, 5.5.3: only the latest ping needs an answer, so a flood of them keeps nothing.
            PING if !self.closed => self.answer = Some(frame(PONG, &self.control)),
            _ => {}
        }
        self.control = Vec::new();
    }

    /// Begins a frame once its header is whole.
    fn begin_frame(&mut self) -> Result<(), Close> {
        let header = self.header;
        let have = self.header_bytes;
        let [first, second, ..] = header;
        if have == 1 {
            let control = first & OPCODE >= CLOSE;
            return match first & OPCODE {
                _ if first & RESERVED != 0 => Err(Close::Protocol),
                TEXT => Err(Close::Unsupported),
                BINARY if !self.in_message => Ok(()),
                CONTINUATION if self.in_message => Ok(()),
                CLOSE | PING | PONG if control && first & FIN != 0 => Ok(()),
                _ => Err(Close::Protocol),
            };
        }
        let is_control = first & OPCODE >= CLOSE;
        let short = u64::from(second & LENGTH);
        if second & MASKED == 0 || (is_control && short > CONTROL_BYTES) {
            return Err(Close::Protocol);
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if have < 2 + length_bytes + 4 {
            return Ok(());
        }
        let long = header[2..2 + length_bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let left = if length_bytes == 0 { short } else { long };
        let mut mask = [0; 4];
        mask.copy_from_slice(&header[2 + length_bytes..][..4]);
        if !is_control {
            self.in_message = first & FIN == 0;
        }
        self.header_bytes = 0;
        self.go_on(Frame { opcode: if is_control { first & OPCODE } else { BINARY }, left, mask, at: 0 });
        Ok(())
    }
}

/// One binary frame.
pub(super) fn binary(payload: &[u8]) -> Vec<u8> {
    frame(BINARY, payload)
}

/// Servers do not mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(FIN | opcode);
    match payload.len() {
        short @ ..=125 => bytes.push(short as u8),
        middle @ ..=0xFFFF => {
            bytes.push(126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame as Theirs, FrameHeader};

    use super::*;

    fn masked(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = Some([0x11, 0x22, 0x33, 0x44]);
        let header = FrameHeader { is_final, opcode, mask, ..FrameHeader::default() };
        let mut bytes = Vec::new();
        Theirs::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
        bytes
    }

    /// What comes out if so many bytes come at a time.
    fn receive(frames: &mut Frames, bytes: &[u8], at_a_time: usize) -> Result<Vec<u8>, Close> {
        let mut carried = Vec::new();
        for part in bytes.chunks(at_a_time) {
            let mut part = part.to_vec();
            let count = frames.receive(&mut part)?;
            carried.extend_from_slice(&part[..count]);
        }
        Ok(carried)
    }

    /// MQTT-6.0.0-2: packets are not aligned with frames.
    #[test]
    fn frames_of_every_length_fragmented_and_cut_anywhere_carry_the_same_bytes() {
        let lengths = [0, 1, 5, 125, 126, 127, 65_535, 65_536, 70_000];
        let mut wire = Vec::new();
        let mut wanted = Vec::new();
        for (number, length) in lengths.into_iter().enumerate() {
            let payload: Vec<u8> = (0..length).map(|index| (index * 7 + number) as u8).collect();
            let (begin, rest) = payload.split_at(length / 3);
            wire.extend(masked(OpCode::Data(Data::Binary), true, &payload));
            wire.extend(masked(OpCode::Data(Data::Binary), false, begin));
            wire.extend(masked(OpCode::Control(Control::Ping), true, b"there?"));
            wire.extend(masked(OpCode::Data(Data::Continue), true, rest));
            wanted.extend([&payload[..], &payload].concat());
        }
        for at_a_time in [1, 2, 3, 7, 4096, wire.len()] {
            let mut frames = Frames::default();
            assert!(receive(&mut frames, &wire, at_a_time).unwrap() == wanted, "{at_a_time} at a time");
            assert_eq!(frames.take_answer().unwrap(), b"\x8A\x06there?");
            assert!(frames.take_answer().is_none() && !frames.is_closed());
        }
    }

    #[test]
    fn what_is_not_allowed_ends_with_its_code() {
        let binary = OpCode::Data(Data::Binary);
        let ping = OpCode::Control(Control::Ping);
        let begun = masked(binary, false, b"x");
        let mut reserved_bit = masked(binary, true, b"x");
        reserved_bit[0] |= 0x40;
        for (what, wire, close) in [
            ("text (MQTT-6.0.0-1)", masked(OpCode::Data(Data::Text), true, b"x"), Close::Unsupported),
            ("unmasked", frame(BINARY, b"x"), Close::Protocol),
            ("reserved bit (compression was not agreed)", reserved_bit, Close::Protocol),
            ("reserved opcode", masked(OpCode::Data(Data::Reserved(3)), true, b"x"), Close::Protocol),
            ("reserved control opcode", vec![0x8B, 0x80, 0, 0, 0, 0], Close::Protocol),
            ("continuation of nothing", masked(OpCode::Data(Data::Continue), true, b"x"), Close::Protocol),
            ("a message within a message", [&begun[..], &begun].concat(), Close::Protocol),
            ("a fragmented ping", masked(ping, false, b"x"), Close::Protocol),
            ("a long ping", masked(ping, true, &[0; 126]), Close::Protocol),
        ] {
            let mut frames = Frames::default();
            assert_eq!(receive(&mut frames, &wire, 1), Err(close), "{what}");
            assert_eq!(frames.take_answer().unwrap(), frame(CLOSE, &close.code().to_be_bytes()), "{what}");
            assert!(frames.is_closed());
            let more = masked(binary, true, b"more");
            assert_eq!(receive(&mut frames, &more, 100), Ok(Vec::new()), "{what}");
        }
    }

    #[test]
    fn a_goodbye_is_answered_once_and_ends_what_is_received() {
        let goodbye = masked(OpCode::Control(Control::Close), true, b"\x03\xE9going away");
        let late = masked(OpCode::Data(Data::Binary), true, b"late");
        let mut frames = Frames::default();
        assert_eq!(receive(&mut frames, &[goodbye, late].concat(), 1000), Ok(Vec::new()));
        assert!(frames.is_closed());
        assert_eq!(frames.take_answer().unwrap(), b"\x88\x02\x03\xE9");
        frames.close(Close::Normal);
        assert!(frames.take_answer().is_none());
    }
}
