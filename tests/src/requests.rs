//! Counts the requests on their way to an HTTP server, refuses some, and loses the answers of others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server that passes everything on as it is, but for what it is told to refuse.
#[derive(Debug)]
pub struct Requests {
    pub endpoint: String,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lines: Mutex<BTreeMap<String, u64>>,
    n: AtomicU64,
    /// Of how many requests one is answered with 503; 0 is none.
    refused_each: AtomicU64,
    /// What the line of a request whose answer gets lost has in it, and how many more do.
    lost: Mutex<(String, u64)>,
}

impl Counts {
    /// Whether the answer to a request gets lost.
    fn is_lost(&self, line: &str) -> bool {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let is_lost = lost.1 > 0 && line.contains(&lost.0);
        lost.1 -= u64::from(is_lost);
        is_lost
    }

    /// Counts a request; whether it is to be passed on.
    fn is_passed(&self, line: String) -> bool {
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner).entry(line).or_default() += 1;
        let each = self.refused_each.load(Ordering::Relaxed);
        each == 0 || !self.n.fetch_add(1, Ordering::Relaxed).is_multiple_of(each)
    }
}

impl Requests {
    /// A proxy in front of the server at `endpoint`.
    pub async fn to(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let counts: Arc<Counts> = Arc::default();
        let counting = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counts) = (server.clone(), Arc::clone(&counting));
                // A connection may end at any time.
                tokio::spawn(async move { pass(client, &server, &counts).await });
            }
        });
        Self { endpoint: format!("http://{address}"), counts }
    }

    /// How many requests of `method` were for a path with `part` in it.
    pub fn count(&self, method: &str, part: &str) -> u64 {
        let counts = self.counts.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = |line: &String| line.starts_with(&format!("{method} ")) && line.contains(part);
        counts.iter().filter(|(line, _)| asked(line)).map(|(_, n)| n).sum()
    }

    /// The next `n` requests with `part` in their line come to the server, which does what they ask for; the client hears
    /// 503.
    pub fn lose_answers(&self, part: &str, n: u64) {
        *self.counts.lost.lock().unwrap_or_else(PoisonError::into_inner) = (part.to_string(), n);
    }

    /// How many answers are still to be lost.
    pub fn answers_to_lose(&self) -> u64 {
        self.counts.lost.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// From now on one of `each` requests is answered with 503 and does not come to the server.
    pub fn refuse_one_of(&self, each: u64) {
        self.counts.refused_each.store(each, Ordering::Relaxed);
    }
}

/// What a request that was refused, or whose answer was lost, is answered with.
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\n\r\n";

async fn pass(client: TcpStream, server: &str, counts: &Counts) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (asked, answered) = client.into_split();
    let (answers, mut to_server) = server.into_split();
    let answered = Arc::new(tokio::sync::Mutex::new(answered));
    let is_lost: Arc<AtomicBool> = Arc::default();
    tokio::spawn(answer(answers, Arc::clone(&answered), Arc::clone(&is_lost)));
    let mut asked = BufReader::new(asked);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if asked.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or_default().to_string();
        let mut body = (&mut asked).take(body_bytes(&head));
        is_lost.store(counts.is_lost(&line), Ordering::SeqCst);
        if counts.is_passed(line) {
            to_server.write_all(head.as_bytes()).await?;
            tokio::io::copy(&mut body, &mut to_server).await?;
        } else {
            tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
            answered.lock().await.write_all(UNAVAILABLE).await?;
        }
    }
}

/// Passes on what the server answers. It ends the connection when the server does.
async fn answer(
    mut answers: OwnedReadHalf,
    answered: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    is_lost: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // A server that is killed resets its connections: the client is to see the end of its own.
        let n = answers.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return answered.lock().await.shutdown().await;
        }
        // Answers that get lost are short: they come in one piece.
        let answer = if is_lost.swap(false, Ordering::SeqCst) { UNAVAILABLE } else { &buffer[..n] };
        answered.lock().await.write_all(answer).await?;
    }
}

/// What follows the head of a request.
fn body_bytes(head: &str) -> u64 {
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    };
    assert!(header("transfer-encoding").is_none(), "this proxy knows no chunks:\n{head}");
    header("content-length").map_or(0, |n| n.parse().expect("a length is a number"))
}
