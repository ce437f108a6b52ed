//! Counts the requests on their way to an HTTP server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server that passes everything on as it is.
#[derive(Debug)]
pub struct Requests {
    pub endpoint: String,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Requests {
    /// A proxy in front of the server at `endpoint`.
    pub async fn to(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let counts: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
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
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = |line: &String| line.starts_with(&format!("{method} ")) && line.contains(part);
        counts.iter().filter(|(line, _)| asked(line)).map(|(_, n)| n).sum()
    }
}

async fn pass(client: TcpStream, server: &str, counts: &Mutex<BTreeMap<String, u64>>) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (asked, mut answered) = client.into_split();
    let (mut answers, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut answered).await });
    let mut asked = BufReader::new(asked);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if asked.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or_default().to_string();
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(line).or_default() += 1;
        to_server.write_all(head.as_bytes()).await?;
        tokio::io::copy(&mut (&mut asked).take(body_bytes(&head)), &mut to_server).await?;
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
