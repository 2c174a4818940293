//! One MQTT 5 connection. A fresh client and event loop for each attempt: the spool in the journal is the truth,
//! never the client's queue. Acknowledgements are manual.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, Broker, Event, EventLoop, ManualAck, MqttOptions, Outgoing, Packet, PubAck,
    PubAckReason, PublishOptions, PublishResult, QoS, SubscribeReasonCode,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use schemas::envelope::Envelope;
use schemas::ids::{MessageId, Principal};
use schemas::message::{Down, RequestAnswer, Up};
use schemas::topic::{Filter, Kind, Topic};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::agent::Input;
use crate::steps::{Step, pass};

/// Requests that wait for the event loop: acknowledgements and publishes are bounded by both Receive Maximums.
const REQUESTS: usize = 128;
/// Deliveries that the cloud may have open towards this device.
const RECEIVE_MAXIMUM: u16 = 16;
/// Largest MQTT packet that is read: a payload of 8 KiB, its topic and properties.
const PACKET_BYTES: u32 = 16 << 10;

/// Where the cloud is, and who this is.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) principal: Principal,
    pub(crate) access: Access,
    pub(crate) keep_alive_s: u16,
}

/// How it proves who it is.
#[derive(Clone)]
pub(crate) enum Access {
    /// mTLS with the enrolled certificate.
    Certificate(Arc<ClientConfig>),
    /// A token over plain TCP, on loopback only.
    Token(String),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Certificate(_) => "Certificate",
            Access::Token(_) => "Token",
        })
    }
}

/// Why an address is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("`{0}` is not an address: write host:port, for instance core.example:8883")]
    Address(String),
    #[error(
        "a token goes over plain TCP to loopback only, and {0} is elsewhere: enrol the device (`edge-agent enroll`)"
    )]
    NotLoopback(String),
}

impl Endpoint {
    pub(crate) fn new(
        address: &str,
        principal: Principal,
        access: Access,
        keep_alive_s: u16,
    ) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Address(address.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().map_err(|_| malformed())?;
        if host.is_empty() {
            return Err(malformed());
        }
        if matches!(access, Access::Token(_)) && !is_loopback(&host) {
            return Err(EndpointError::NotLoopback(address.to_owned()));
        }
        Ok(Self { host, port, principal, access, keep_alive_s })
    }

    fn options(&self, client: &str) -> MqttOptions {
        // Client ids are `.`-separated: no name contains one, so no two principals share an id.
        let id = format!("{}.{}.{client}", self.principal.tenant, self.principal.id);
        let mut options = MqttOptions::new(id, Broker::tcp(self.host.clone(), self.port));
        options
            .set_keep_alive(self.keep_alive_s)
            .set_clean_start(true)
            .set_ack_mode(AckMode::Manual)
            .set_receive_maximum(Some(RECEIVE_MAXIMUM))
            .set_max_packet_size(Some(PACKET_BYTES))
            .set_outgoing_inflight_upper_limit(RECEIVE_MAXIMUM)
            .set_connect_timeout(Duration::from_secs(10));
        match &self.access {
            Access::Token(token) => {
                options.set_credentials(self.principal.to_string(), token.clone());
            }
            Access::Certificate(config) => {
                let (config, host, port) = (Arc::clone(config), self.host.clone(), self.port);
                options
                    .set_socket_connector(move |_, _| connect_tls(host.clone(), port, Arc::clone(&config)));
            }
        }
        options
    }

    fn topic(&self, kind: Kind) -> String {
        Topic::Up { principal: self.principal.clone(), kind }.to_string()
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => (host, 0).to_socket_addrs().is_ok_and(|mut found| found.all(|a| a.ip().is_loopback())),
    }
}

async fn connect_tls(
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let name =
        ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// News of a connection. Each names its connection, so that a late one harms nobody.
#[derive(Debug)]
pub(crate) enum FromCloud {
    /// `down/` is subscribed.
    Connected { connection: u64, window: u16 },
    /// QoS 1 has a token to answer with.
    Message { connection: u64, token: Option<u64>, kind: String, payload: Vec<u8> },
    /// PUBACK.
    Published { connection: u64, message: MessageId, reason: u8 },
    /// It ended.
    Ended { connection: u64, why: String },
}

/// A connection that is being made or is up. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    endpoint: Endpoint,
    client: AsyncClient,
    task: JoinHandle<()>,
    inputs: mpsc::Sender<Input>,
}

/// The event loop's queue is closed or full: this connection is of no more use.
#[derive(Debug)]
pub(crate) struct Unusable;

impl Connection {
    /// Begins; [`FromCloud::Connected`] or [`FromCloud::Ended`] follows.
    pub(crate) fn open(endpoint: &Endpoint, id: u64, inputs: &mpsc::Sender<Input>) -> Self {
        let (client, events) = AsyncClient::builder(endpoint.options("agent")).capacity(REQUESTS).build();
        let subscriber = client.clone();
        let filter = Filter::DownAll { principal: endpoint.principal.clone() }.to_string();
        let sender = inputs.clone();
        let task = tokio::spawn(async move {
            let why = drive(events, &subscriber, &filter, id, &sender).await;
            let _ = sender.send(Input::Cloud(FromCloud::Ended { connection: id, why })).await;
        });
        Self { id, endpoint: endpoint.clone(), client, task, inputs: inputs.clone() }
    }

    /// PUBACK, in the order of the calls.
    pub(crate) fn acknowledge(&self, token: u64, reason: u8) -> Result<(), Unusable> {
        let packet = u16::try_from(token).map_err(|_| Unusable)?;
        let mut ack = PubAck::new(packet, None);
        if reason != 0 {
            ack.reason = PubAckReason::QuotaExceeded;
        }
        self.client.try_manual_ack(ManualAck::PubAck(ack)).map_err(|_| Unusable)
    }

    /// QoS 1; its PUBACK arrives as [`FromCloud::Published`].
    pub(crate) fn publish(&self, message: MessageId, kind: Kind, payload: Vec<u8>) -> Result<(), Unusable> {
        let options = PublishOptions::at_least_once();
        let notice = self
            .client
            .try_publish_tracked(self.endpoint.topic(kind), payload, options)
            .map_err(|_| Unusable)?;
        let (connection, inputs) = (self.id, self.inputs.clone());
        tokio::spawn(async move {
            // Without a PUBACK (the connection ended) there is nothing to tell: the spool keeps the message.
            if let Ok(PublishResult::Qos1(ack)) = notice.wait_async().await {
                let reason = ack.reason as u8;
                if reason < 0x80 && matches!(kind, Kind::ExecutorCommand | Kind::PaymentPrompt) {
                    pass(Step::Reported);
                }
                let _ = inputs.send(Input::Cloud(FromCloud::Published { connection, message, reason })).await;
            }
        });
        Ok(())
    }

    /// QoS 0.
    pub(crate) fn ask(&self, kind: Kind, payload: Vec<u8>) -> Result<(), Unusable> {
        let options = PublishOptions::at_most_once();
        self.client.try_publish(self.endpoint.topic(kind), payload, options).map_err(|_| Unusable)
    }

    /// DISCONNECT, then the end.
    pub(crate) async fn close(mut self) {
        if self.client.disconnect().await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Polls until the end, and says why it ended.
async fn drive(
    mut events: EventLoop,
    client: &AsyncClient,
    filter: &str,
    connection: u64,
    inputs: &mpsc::Sender<Input>,
) -> String {
    let mut window = u16::MAX;
    loop {
        let news = match events.poll().await {
            Err(error) => return explain(&error),
            Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                window = ack.properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
                if client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                    return "the client's queue is closed".to_owned();
                }
                continue;
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => match ack.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => FromCloud::Connected { connection, window },
                code => return format!("the subscription to {filter} was refused ({code:?})"),
            },
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic);
                let kind = topic.rsplit('/').next().unwrap_or_default().to_owned();
                let token = (publish.qos != QoS::AtMostOnce).then_some(u64::from(publish.pkid));
                FromCloud::Message { connection, token, kind, payload: publish.payload.to_vec() }
            }
            Ok(Event::Incoming(Packet::Disconnect(disconnect))) => {
                return format!("the cloud disconnected ({:?})", disconnect.reason_code);
            }
            Ok(Event::Outgoing(Outgoing::PubAck(_))) => {
                pass(Step::Acknowledged);
                continue;
            }
            Ok(_) => continue,
        };
        if inputs.send(Input::Cloud(news)).await.is_err() {
            return "the agent has ended".to_owned();
        }
    }
}

/// Whether CONNECT is accepted, without touching `down/`: for `edge-agent check`.
pub(crate) async fn probe(endpoint: &Endpoint) -> Result<(), String> {
    let (client, mut events) = AsyncClient::builder(endpoint.options("check")).capacity(4).build();
    loop {
        match events.poll().await {
            Err(error) => return Err(explain(&error)),
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_disconnect();
                let _ = tokio::time::timeout(Duration::from_secs(1), events.poll()).await;
                return Ok(());
            }
            Ok(_) => {}
        }
    }
}

/// One request and its answer, on a connection of its own: for a terminal that has no agent. Only answers to requests are
/// subscribed, so nothing else is taken from whoever else is this principal.
pub(crate) async fn request(
    endpoint: &Endpoint,
    envelope: &Envelope<Up>,
    within: Duration,
) -> Result<RequestAnswer, String> {
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    match tokio::time::timeout(within, converse(endpoint, envelope)).await {
        Ok(answered) => answered.map_err(|why| format!("{address}: {why}")),
        Err(_) => Err(format!("{address} did not answer within {within:?}")),
    }
}

async fn converse(endpoint: &Endpoint, envelope: &Envelope<Up>) -> Result<RequestAnswer, String> {
    // Two scans at the same time are two clients.
    let client = format!("scan-{}", envelope.id);
    let mut options = endpoint.options(&client);
    options.set_ack_mode(AckMode::Automatic);
    let (client, mut events) = AsyncClient::builder(options).capacity(4).build();
    let principal = endpoint.principal.clone();
    let filter = Filter::DownKind { principal, kind: Kind::RequestAnswer }.to_string();
    let closed = |_| "the client's queue is closed".to_owned();
    loop {
        match events.poll().await {
            Err(error) => return Err(explain(&error)),
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                client.try_subscribe(filter.as_str(), QoS::AtLeastOnce).map_err(closed)?;
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => match ack.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => {
                    let topic = endpoint.topic(envelope.body.kind());
                    let options = PublishOptions::at_least_once();
                    client
                        .try_publish(topic, envelope.encode(), options)
                        .map_err(|error| error.to_string())?;
                }
                code => return Err(format!("the subscription to {filter} was refused ({code:?})")),
            },
            Ok(Event::Incoming(Packet::PubAck(ack))) if ack.reason as u8 >= 0x80 => {
                return Err(format!("the cloud did not take it ({:?})", ack.reason));
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let Ok(Envelope { body: Down::RequestAnswer(answer), .. }) =
                    Down::decode(Kind::RequestAnswer, &publish.payload)
                else {
                    continue;
                };
                if Some(answer.key) == envelope.key {
                    // Its PUBACK is in the queue before this; whether either arrives changes nothing.
                    let _ = client.try_disconnect();
                    let _ = tokio::time::timeout(Duration::from_secs(1), events.poll()).await;
                    return Ok(answer);
                }
            }
            Ok(_) => {}
        }
    }
}

/// What failed and what to do.
fn explain(error: &rumqttc::ConnectionError) -> String {
    use rumqttc::ConnectReturnCode as Code;
    use rumqttc::ConnectionError as E;
    match error {
        E::ConnectionRefused(Code::NotAuthorized | Code::BadUserNamePassword | Code::Banned) => {
            "the cloud does not accept this identity: it may have been revoked, ask the operator, or enrol anew"
                .to_owned()
        }
        E::ConnectionRefused(code) => format!("the cloud refused the connection ({code:?})"),
        E::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => format!(
                "what answers there is not the platform that enrolled this device ({reason}): check the address; if \
                 it is right, check this device's clock, then ask the operator"
            ),
            Some(rustls::Error::AlertReceived(alert)) => format!(
                "the cloud does not accept this device's certificate ({alert:?}): it may have ended or been revoked, \
                 ask the operator, or enrol anew"
            ),
            _ => format!("{error}: check the address, the network and that the cloud runs"),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_nowhere_but_loopback() {
        let endpoint = |address: &str| {
            Endpoint::new(address, "acme/chip-7".parse().unwrap(), Access::Token("t".to_owned()), 30)
        };
        for good in ["127.0.0.1:1883", "[::1]:1883", "localhost:1883"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["192.0.2.1:1883", "[2001:db8::1]:1883", "127.0.0.1", ":1883", "127.0.0.1:x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_hides_the_token() {
        let access = Access::Token("hunter2".to_owned());
        assert_eq!(format!("{access:?}"), "Token");
    }
}
