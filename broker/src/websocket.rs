//! MQTT over WebSocket (RFC 6455; MQTT 5, section 6): a WebSocket as the plain stream of bytes that a connection reads
//! and writes.
//!
//! The upgrade is tungstenite's. Frames are taken apart here, because MQTT packets may span frames and frames may hold
//! many packets: whoever waits for whole frames must keep as much as a client likes to send in one. This way a frame of
//! any length passes through without being kept, the session's packet limits are the only ones, and an idle connection
//! has no buffers. No extension is offered, so nothing comes compressed.

mod frames;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Error};

use frames::{Close, Frames};

/// The path that clients expect; none at all will do, too.
const PATHS: [&str; 2] = ["/mqtt", "/"];
/// MQTT-6.0.0-3 and -4: what a client must offer and gets.
const SUBPROTOCOL: &str = "mqtt";
/// Of one frame that is sent.
const FRAME_BYTES: usize = 16 * 1024;

/// A stream whose bytes travel in binary frames.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    stream: S,
    frames: Frames,
    /// Frames on their way out.
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    closing: bool,
}

/// Answers the upgrade. The caller limits its time.
pub(crate) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
) -> tungstenite::Result<WebSocket<S>> {
    // Only the handshake is theirs, so no buffers for frames.
    let config = WebSocketConfig::default().read_buffer_size(0).write_buffer_size(0);
    let upgraded = tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(config));
    Ok(WebSocket::new(upgraded.await?.into_inner()))
}

/// Why an upgrade failed, for the log: what the peer sent is not in it.
pub(crate) fn failure(error: &Error) -> String {
    match error {
        Error::Http(answer) => format!("refused with {}", answer.status()),
        other => other.to_string(),
    }
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature; once for each connection")]
fn answer(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status, why: &str| {
        let mut refusal = ErrorResponse::new(Some(format!("{why}\n")));
        *refusal.status_mut() = status;
        refusal
    };
    if !PATHS.contains(&request.uri().path()) {
        return Err(refuse(StatusCode::NOT_FOUND, "MQTT is at /mqtt"));
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if !offered.any(|one| one.trim() == SUBPROTOCOL) {
        return Err(refuse(StatusCode::BAD_REQUEST, "offer the WebSocket subprotocol `mqtt`"));
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

impl<S> WebSocket<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            closing: false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Until everything is written, answers to control frames included.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    bytes => self.written += bytes,
                }
                self.unflushed = true;
                continue;
            }
            (self.out, self.written) = (Vec::new(), 0);
            match self.frames.take_answer() {
                Some(frame) => self.out = frame,
                None => break,
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buffer.filled().len();
        loop {
            if this.frames.is_closed() {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == start {
                return Poll::Ready(Ok(()));
            }
            let received = this.frames.receive(&mut buffer.filled_mut()[start..]);
            // What does not go out now goes with the next write, or when the socket is ready for it.
            let _ = this.poll_drain(cx)?;
            match received {
                Ok(0) => buffer.set_filled(start),
                Ok(bytes) => {
                    buffer.set_filled(start + bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(violation) => {
                    buffer.set_filled(start);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let bytes = bytes.get(..FRAME_BYTES).unwrap_or(bytes);
        this.out = frames::binary(bytes);
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    /// Says goodbye with the reason, and ends the stream. Does not wait for the peer's goodbye.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.frames.close(Close::Normal);
            this.closing = true;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
