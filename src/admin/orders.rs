//! What can be changed through the admin port: which deployment stands behind us, and the policy.
//!
//! Owns who may give an order, how long it may be, and that there is one of its kind at a time; the
//! control plane carries it out and says what became of it. Never changes anything itself, never repeats
//! what was sent: it may hold a password (INV-11).
//!
//! What surprises: a request that a web page has made is refused even where changes are allowed.
//! Browsers send such requests to any address, ports of this machine included, and say so in
//! `Origin`.

use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper::header::ORIGIN;
use hyper::{Request, StatusCode};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Where orders come in.
#[derive(Debug)]
pub struct Orders {
    /// Whether the operator lets anybody give one.
    are_allowed: bool,
    desk: mpsc::Sender<Order>,
    /// One order is carried out at a time.
    turn: Semaphore,
}

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A move to another deployment: a URL, or a table `[upstream]`.
    Move,
    /// The policy file is to be read again.
    ReloadPolicy,
    /// The policy before this one is to count again.
    RollBackPolicy,
    /// A rule for the moment.
    BeginEmergency,
    /// The emergency rule of this name is to end.
    EndEmergency(String),
}

/// An order.
#[derive(Debug)]
pub struct Order {
    /// What it is about.
    pub wish: Wish,
    /// What was sent with it.
    pub body: String,
    /// What became of it.
    pub answer: oneshot::Sender<Verdict>,
}

/// What became of an order, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out.
    Done(String),
    /// It makes no sense.
    Wrong(String),
    /// It makes sense, and the new deployment cannot serve.
    Unusable(String),
}

// === impl Orders ===

impl Orders {
    /// Orders end at the receiver.
    #[must_use]
    pub fn new(are_allowed: bool) -> (Self, mpsc::Receiver<Order>) {
        let (desk, orders) = mpsc::channel(1);
        (Self { are_allowed, desk, turn: Semaphore::new(1) }, orders)
    }

    /// Takes an order and waits for what becomes of it.
    pub(super) async fn take<B>(&self, wish: Wish, request: Request<B>) -> (StatusCode, String)
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !self.are_allowed {
            return (StatusCode::FORBIDDEN, NOT_ALLOWED.to_owned());
        }
        if request.headers().contains_key(ORIGIN) {
            return (StatusCode::FORBIDDEN, FROM_A_PAGE.to_owned());
        }
        let Ok(_turn) = self.turn.try_acquire() else {
            return (StatusCode::CONFLICT, BUSY.to_owned());
        };
        let Ok(body) = Limited::new(request.into_body(), ORDER_BYTES_MAX).collect().await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG.to_owned());
        };
        let Ok(body) = String::from_utf8(body.to_bytes().to_vec()) else {
            return (StatusCode::UNPROCESSABLE_ENTITY, "the body is not UTF-8\n".to_owned());
        };
        let (answer, verdict) = oneshot::channel();
        if self.desk.send(Order { wish, body, answer }).await.is_err() {
            return (StatusCode::SERVICE_UNAVAILABLE, STOPPING.to_owned());
        }
        match verdict.await {
            Ok(Verdict::Done(words)) => (StatusCode::OK, words),
            Ok(Verdict::Wrong(words)) => (StatusCode::UNPROCESSABLE_ENTITY, unchanged(&words)),
            Ok(Verdict::Unusable(words)) => (StatusCode::BAD_GATEWAY, unchanged(&words)),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, STOPPING.to_owned()),
        }
    }
}

fn unchanged(words: &str) -> String {
    format!("nothing is changed: {}\n", words.trim_end())
}

/// Longest order: a table with thousands of renamed commands.
const ORDER_BYTES_MAX: usize = 64 * 1024;
const NOT_ALLOWED: &str = "this admin port only reads: set admin_changes = true in the \
     configuration (it is the default only while the port listens on a loopback address)\n";
const FROM_A_PAGE: &str = "requests of web pages change nothing here\n";
const BUSY: &str = "another order of this kind is being carried out; try again when it has ended\n";
const TOO_LONG: &str = "the body could not be read, or is longer than 64 KiB\n";
const STOPPING: &str = "this process is stopping\n";
