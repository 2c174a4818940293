//! A person's terminal: hands in payment informations, verifies, asks, and keeps everything that it was told.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use rumqttc::{
    AsyncClient, Broker, ConnectionError, Event, EventLoop, MqttOptions, Packet, PublishOptions,
    PublishResult, QoS,
};
use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId, PaymentId, Principal};
use schemas::message::{
    Down, PaymentCancel, PaymentOrder, PaymentRefund, PaymentRequest, PaymentStatus, RequestAnswer,
    StatusRequest, Up, VerificationAnswer, VerificationRequest,
};
use schemas::signed::Verification;
use schemas::time::Timestamp;
use schemas::topic::{Filter, Topic};
use schemas::wire::SignedBytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Why something did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// Nothing of the expected kind came in time.
    #[error("{0} did not come within {1:?}")]
    Silence(&'static str, Duration),
    /// The cloud answered no.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection's task has ended.
    #[error("the terminal's connection has ended")]
    Ended,
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// One person at one terminal. Reconnects by itself; what it sends is sent again until it is acknowledged.
pub struct Terminal {
    principal: Principal,
    key: Option<SigningKey>,
    client: AsyncClient,
    inbox: mpsc::UnboundedReceiver<Envelope<Down>>,
    /// Everything that was looked at and not wanted yet.
    kept: Vec<Envelope<Down>>,
    task: JoinHandle<()>,
}

impl Terminal {
    /// Connects over plain TCP with a token. `key` signs verifications; a merchant's terminal has none.
    pub fn connect(lane: SocketAddr, principal: Principal, token: &str, key: Option<SigningKey>) -> Self {
        let id = format!("{}.{}.terminal", principal.tenant, principal.id);
        let mut options = MqttOptions::new(id, Broker::tcp(lane.ip().to_string(), lane.port()));
        options
            .set_keep_alive(10)
            .set_clean_start(true)
            .set_credentials(principal.to_string(), token.to_owned());
        // Without this a small packet waits for the acknowledgement of the one before: 40 ms for each step.
        options.set_socket_connector(move |_, _| async move {
            let stream = TcpStream::connect(lane).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let (client, events) = AsyncClient::builder(options).capacity(64).build();
        let (sender, inbox) = mpsc::unbounded_channel();
        let filter = Filter::DownAll { principal: principal.clone() }.to_string();
        let task = tokio::spawn(drive(events, client.clone(), filter, sender));
        Self { principal, key, client, inbox, kept: Vec::new(), task }
    }

    /// Who this is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Sends a request and waits for its answer, whatever it is.
    ///
    /// # Errors
    /// Silence.
    pub async fn ask(&mut self, body: Up, within: Duration) -> Result<RequestAnswer, TerminalError> {
        let key = IdempotencyKey(random()?);
        let envelope = Envelope::request(MessageId(random()?), key, now().plus_ms(600_000), body);
        self.send(&envelope).await?;
        self.answer_to(key, within).await
    }

    /// Sends a request for, or about, a payment and waits for its answer.
    ///
    /// # Errors
    /// Refused, or silence.
    pub async fn request(&mut self, body: Up, within: Duration) -> Result<PaymentId, TerminalError> {
        let answer = self.ask(body, within).await?;
        match (answer.payment, answer.refused) {
            (Some(payment), None) => Ok(payment),
            (_, code) => Err(TerminalError::Refused(
                code.map_or_else(|| answer.text.to_string(), |code| code.to_string()),
            )),
        }
    }

    /// Hands in a payment information, as it was read from the chip (CP-2).
    ///
    /// # Errors
    /// Refused, or silence.
    pub async fn pay(
        &mut self,
        information: SignedBytes,
        within: Duration,
    ) -> Result<PaymentId, TerminalError> {
        self.request(Up::PaymentRequest(PaymentRequest { information }), within).await
    }

    /// Orders a payment from a child's account, as its guardian (PC-1).
    ///
    /// # Errors
    /// Refused, or silence.
    pub async fn order(&mut self, order: PaymentOrder, within: Duration) -> Result<PaymentId, TerminalError> {
        self.request(Up::PaymentOrder(order), within).await
    }

    /// Withdraws a payment.
    ///
    /// # Errors
    /// Refused, or silence.
    pub async fn cancel(&mut self, payment: PaymentId, within: Duration) -> Result<PaymentId, TerminalError> {
        self.request(Up::PaymentCancel(PaymentCancel { payment }), within).await
    }

    /// Gives a payment back, as its merchant (CP-16).
    ///
    /// # Errors
    /// Refused, or silence.
    pub async fn refund(&mut self, payment: PaymentId, within: Duration) -> Result<PaymentId, TerminalError> {
        self.request(Up::PaymentRefund(PaymentRefund { payment }), within).await
    }

    /// Signs what the cloud asked (CP-5).
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn verify(&mut self, asked: &VerificationRequest) -> Result<(), TerminalError> {
        let Some(key) = &self.key else {
            return Err(TerminalError::Refused("this terminal has no key".to_owned()));
        };
        let verification = Verification {
            payer: self.principal.clone(),
            payment: asked.payment,
            payee: asked.payee.clone(),
            amount: asked.amount,
            expires_at: asked.answer_by.plus_ms(1_000),
        };
        let body = Up::PaymentVerification(VerificationAnswer { verification: verification.sign(key) });
        self.send(&Envelope::message(MessageId(random()?), body)).await
    }

    /// Asks for everything that is open.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn ask_status(&mut self, payment: Option<PaymentId>) -> Result<(), TerminalError> {
        self.send(&Envelope::message(MessageId(random()?), Up::StatusRequest(StatusRequest { payment })))
            .await
    }

    /// Sends with QoS 1, again on each new connection, until the cloud has acknowledged.
    ///
    /// # Errors
    /// The connection's task has ended.
    pub async fn send(&mut self, envelope: &Envelope<Up>) -> Result<(), TerminalError> {
        let topic = Topic::Up { principal: self.principal.clone(), kind: envelope.body.kind() }.to_string();
        loop {
            let notice = self
                .client
                .publish_tracked(topic.clone(), envelope.encode(), PublishOptions::at_least_once())
                .await
                .map_err(|_| TerminalError::Ended)?;
            if let Ok(PublishResult::Qos1(_)) = notice.wait_async().await {
                return Ok(());
            }
        }
    }

    /// The question for this payment's verification.
    ///
    /// # Errors
    /// Silence.
    pub async fn asked(
        &mut self,
        payment: PaymentId,
        within: Duration,
    ) -> Result<VerificationRequest, TerminalError> {
        self.wait("the question for verification", within, |body| match body {
            Down::PaymentVerification(asked) if asked.payment == payment => Some(asked.clone()),
            _ => None,
        })
        .await
    }

    /// The next status of this payment that `wanted` accepts.
    ///
    /// # Errors
    /// Silence.
    pub async fn status(
        &mut self,
        payment: PaymentId,
        within: Duration,
        wanted: impl Fn(&PaymentStatus) -> bool,
    ) -> Result<PaymentStatus, TerminalError> {
        self.wait("the status", within, |body| match body {
            Down::PaymentStatus(status) if status.payment == payment && wanted(status) => {
                Some(status.clone())
            }
            _ => None,
        })
        .await
    }

    async fn answer_to(
        &mut self,
        key: IdempotencyKey,
        within: Duration,
    ) -> Result<RequestAnswer, TerminalError> {
        self.wait("the answer", within, |body| match body {
            Down::RequestAnswer(answer) if answer.key == key => Some(answer.clone()),
            _ => None,
        })
        .await
    }

    /// The first message, kept or new, of which `pick` makes something.
    ///
    /// # Errors
    /// Silence, or the connection has ended.
    pub async fn wait<T>(
        &mut self,
        what: &'static str,
        within: Duration,
        pick: impl Fn(&Down) -> Option<T>,
    ) -> Result<T, TerminalError> {
        if let Some(at) = self.kept.iter().position(|kept| pick(&kept.body).is_some()) {
            return pick(&self.kept.remove(at).body).ok_or(TerminalError::Ended);
        }
        let until = tokio::time::Instant::now() + within;
        loop {
            let next = tokio::time::timeout_at(until, self.inbox.recv()).await;
            let envelope = match next {
                Err(_) => return Err(TerminalError::Silence(what, within)),
                Ok(None) => return Err(TerminalError::Ended),
                Ok(Some(envelope)) => envelope,
            };
            match pick(&envelope.body) {
                Some(found) => return Ok(found),
                None => self.kept.push(envelope),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Polls for ever: the next poll after an error connects again. Subscribes on every connection.
async fn drive(
    mut events: EventLoop,
    client: AsyncClient,
    filter: String,
    inbox: mpsc::UnboundedSender<Envelope<Down>>,
) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_subscribe(filter.as_str(), QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic).parse();
                if let Ok(Topic::Down { kind, .. }) = topic
                    && let Ok(envelope) = Down::decode(kind, &publish.payload)
                    && inbox.send(envelope).is_err()
                {
                    return;
                }
            }
            Ok(_) => {}
            Err(ConnectionError::RequestsDone) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The wall clock, for the ends of requests.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
