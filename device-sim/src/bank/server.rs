//! The HTTP face of the book, and the place where faults happen.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::book::{Book, Decision, Key, RefundRequest, TransferRequest, Unacceptable};
use super::decimal_text;
use super::fault::{Call, Fault, FaultRule, Faults};
use super::store::Store;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 1_024;
/// Bytes of a request's body; a list of fault rules is the longest.
const BODY_BYTES: usize = 1 << 20;
/// How long a client may take over a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until dropped. Dropping it also ends its connections and whatever is stalled or held, as the
/// end of a process would; what the store holds on disk is what a next `serve` goes on with.
pub async fn serve(listener: TcpListener, store: Store) -> io::Result<()> {
    let bank = Arc::new(Bank::new(store));
    let _end = EndWorkOnDrop(Arc::clone(&bank));
    let router = router(Arc::clone(&bank));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that died in the queue, or no file descriptor left: neither ends the bank.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let router = router.clone();
        connections.spawn(async move {
            serve_connection(stream, router).await;
            drop(place);
        });
    }
}

/// Marks a response that must not be sent: the connection closes instead.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("lost on purpose")]
struct Lost;

async fn serve_connection(stream: TcpStream, router: Router) {
    // Without this an answer may wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let calls = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = calls.call(request);
        async move {
            let response: Response = answering.await.unwrap_or_else(|never: Infallible| match never {});
            if response.extensions().get::<Lost>().is_some() { Err(Lost) } else { Ok(response) }
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // An error here is a client that hung up or a message lost on purpose.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn router(bank: Arc<Bank>) -> Router {
    Router::new()
        .route("/transfers/{key}", put(put_transfer).get(get_transfer))
        .route("/transfers/{key}/cancel", put(put_cancel))
        .route("/refunds/{key}", put(put_refund))
        .route("/accounts/{name}", put(put_account))
        .route("/book", get(get_book))
        .route("/faults", put(put_faults))
        .route("/release", post(post_release))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(bank)
}

struct Bank {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    /// Requests on their way to the book. They live longer than the connection that brought them: a
    /// request delayed in a network arrives even when its sender has given up.
    work: Mutex<JoinSet<()>>,
    releases: watch::Sender<()>,
}

struct EndWorkOnDrop(Arc<Bank>);

impl Drop for EndWorkOnDrop {
    fn drop(&mut self) {
        lock(&self.0.work).abort_all();
    }
}

/// A panic while a lock is held leaves whole values behind, so the lock stays usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Acting = dyn Fn(&mut Book, u64, Option<&str>) -> Result<Answer, Unacceptable> + Send + Sync;

impl Bank {
    fn new(store: Store) -> Self {
        Self {
            store: Mutex::new(store),
            faults: Mutex::default(),
            work: Mutex::default(),
            releases: watch::Sender::new(()),
        }
    }

    /// Brings one call to the book, through the fault that is due.
    async fn run(
        self: &Arc<Self>,
        call: Call,
        act: impl Fn(&mut Book, u64, Option<&str>) -> Result<Answer, Unacceptable> + Send + Sync + 'static,
    ) -> Response {
        let fault = lock(&self.faults).take(call);
        match fault {
            Some(Fault::LoseRequest) => return lost(),
            Some(Fault::Fail500) => {
                return problem(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "failed on purpose before acting".to_owned(),
                );
            }
            _ => {}
        }
        let (answered, answer) = oneshot::channel();
        {
            let bank = Arc::clone(self);
            let fault = fault.clone();
            let mut work = lock(&self.work);
            while work.try_join_next().is_some() {}
            work.spawn(async move {
                let response = bank.carry_request(fault.as_ref(), &act).await;
                // The connection may be gone; the book has changed all the same.
                let _ = answered.send(response);
            });
        }
        let Ok(response) = answer.await else { return lost() };
        match fault {
            Some(Fault::StallAnswerMs(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(Fault::HoldAnswer) => self.wait_for_release().await,
            Some(Fault::LoseAnswer) => return lost(),
            _ => {}
        }
        response
    }

    async fn carry_request(&self, fault: Option<&Fault>, act: &Acting) -> Response {
        match fault {
            Some(Fault::StallRequestMs(ms)) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Some(Fault::HoldRequest) => self.wait_for_release().await,
            Some(Fault::Repeat) => {
                self.act(None, act);
            }
            Some(Fault::Refuse { code }) => return self.act(Some(code), act),
            _ => {}
        }
        self.act(None, act)
    }

    fn act(&self, refuse_with: Option<&str>, act: &Acting) -> Response {
        match lock(&self.store).change(|book| act(book, now_ms(), refuse_with)) {
            Ok(Ok(answer)) => json(StatusCode::OK, &answer),
            Ok(Err(Unacceptable::Conflict)) => {
                problem(StatusCode::CONFLICT, Unacceptable::Conflict.to_string())
            }
            Ok(Err(Unacceptable::Full)) => {
                problem(StatusCode::INSUFFICIENT_STORAGE, Unacceptable::Full.to_string())
            }
            Ok(Err(error)) => problem(StatusCode::BAD_REQUEST, error.to_string()),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    async fn wait_for_release(&self) {
        // An error means that the bank is ending.
        let _ = self.releases.subscribe().changed().await;
    }
}

/// What the four calls answer.
#[derive(Debug, Serialize)]
struct Answer {
    key: Key,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

impl Answer {
    fn new(key: Key, decision: Option<Decision>) -> Self {
        let (state, code) = match decision {
            Some(Decision::Done) => ("done", None),
            Some(Decision::Refused { code }) => ("refused", Some(code)),
            Some(Decision::Cancelled) => ("cancelled", None),
            None => ("not_found", None),
        };
        Self { key, state, code }
    }
}

type Reply = Result<Response, BadRequest>;

async fn put_transfer(State(bank): State<Arc<Bank>>, Path(key): Path<String>, body: Bytes) -> Reply {
    let (key, request): (Key, TransferRequest) = (key.parse()?, parse(&body)?);
    let transfer = move |book: &mut Book, now_ms, refuse_with: Option<&str>| {
        book.transfer(key, &request, now_ms, refuse_with).map(|decision| Answer::new(key, Some(decision)))
    };
    Ok(bank.run(Call::Transfer, transfer).await)
}

async fn get_transfer(State(bank): State<Arc<Bank>>, Path(key): Path<String>) -> Reply {
    let key: Key = key.parse()?;
    Ok(bank.run(Call::Status, move |book, _, _| Ok(Answer::new(key, book.status(key)))).await)
}

async fn put_cancel(State(bank): State<Arc<Bank>>, Path(key): Path<String>) -> Reply {
    let key: Key = key.parse()?;
    let cancel = move |book: &mut Book, _, _: Option<&str>| {
        book.cancel(key).map(|decision| Answer::new(key, Some(decision)))
    };
    Ok(bank.run(Call::Cancel, cancel).await)
}

async fn put_refund(State(bank): State<Arc<Bank>>, Path(key): Path<String>, body: Bytes) -> Reply {
    let (key, request): (Key, RefundRequest) = (key.parse()?, parse(&body)?);
    let refund = move |book: &mut Book, _, refuse_with: Option<&str>| {
        book.refund(key, &request, refuse_with).map(|decision| Answer::new(key, Some(decision)))
    };
    Ok(bank.run(Call::Refund, refund).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountRequest {
    #[serde(with = "decimal_text")]
    balance: Decimal,
    currency: String,
}

async fn put_account(State(bank): State<Arc<Bank>>, Path(name): Path<String>, body: Bytes) -> Reply {
    let request: AccountRequest = parse(&body)?;
    let mut store = lock(&bank.store);
    let opened = store.change(|book| book.open_account(&name, request.balance, &request.currency));
    Ok(match opened {
        Ok(Ok(())) => json(StatusCode::OK, &store.book().accounts.get(&name)),
        Ok(Err(Unacceptable::Conflict)) => problem(
            StatusCode::CONFLICT,
            "this account exists with another opening balance or currency: choose another name".to_owned(),
        ),
        Ok(Err(error)) => return Err(error.into()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })
}

async fn get_book(State(bank): State<Arc<Bank>>) -> Response {
    json(StatusCode::OK, lock(&bank.store).book())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultsRequest {
    rules: Vec<FaultRule>,
}

async fn put_faults(State(bank): State<Arc<Bank>>, body: Bytes) -> Reply {
    let request: FaultsRequest = parse(&body)?;
    let rules = request.rules.len();
    lock(&bank.faults).replace(request.rules).map_err(|message| BadRequest(message.to_owned()))?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "rules": rules })))
}

async fn post_release(State(bank): State<Arc<Bank>>) -> Response {
    let released = bank.releases.receiver_count();
    bank.releases.send_replace(());
    json(StatusCode::OK, &serde_json::json!({ "released": released }))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest(format!("not a request: {error}")))
}

/// Not a request: nothing was recorded.
struct BadRequest(String);

impl From<Unacceptable> for BadRequest {
    fn from(error: Unacceptable) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        problem(StatusCode::BAD_REQUEST, self.0)
    }
}

fn problem(status: StatusCode, message: String) -> Response {
    json(status, &serde_json::json!({ "error": message }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    (status, axum::Json(value)).into_response()
}

fn lost() -> Response {
    let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    response.extensions_mut().insert(Lost);
    response
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
