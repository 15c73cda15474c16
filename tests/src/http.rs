//! Just enough HTTP/1.1 to read a request and to write a response byte by byte.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing that a test sends is larger.
const BODY_BYTES_MAX: usize = 256 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request as it came.
pub(crate) struct RawRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A connection, with what was read beyond the last request.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Pieces are to arrive as they are sent; where this fails they arrive all the same.
        let _ = stream.set_nodelay(true);
        Self { stream, unread: Vec::new() }
    }

    /// The next request, or nothing where the client closed the connection instead.
    pub(crate) async fn request(&mut self) -> io::Result<Option<RawRequest>> {
        let head_len = loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("the request's head is too long"));
            }
            if self.read_more().await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..head_len]).into_owned();
        self.unread.drain(..head_len + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = self.body(&headers).await?;
        Ok(Some(RawRequest { method, path, headers, body }))
    }

    async fn body(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        if header("transfer-encoding").is_some() {
            return Err(io::Error::other("a request body in chunks is not supported"));
        }
        let len: usize = header("content-length").unwrap_or("0").parse().map_err(io::Error::other)?;
        if len > BODY_BYTES_MAX {
            return Err(io::Error::other("the request's body is too long"));
        }
        while self.unread.len() < len {
            if self.read_more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.unread.drain(..len).collect())
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = vec![0; 64 << 10];
        let n = self.stream.read(&mut piece).await?;
        self.unread.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Returns when the client has closed the connection.
    pub(crate) async fn hung_up(&mut self) {
        while self.read_more().await.is_ok_and(|n| n > 0) {}
    }

    /// Writes a whole response with a length.
    pub(crate) async fn whole(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        content_type: &str,
        body: &str,
    ) -> io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {status} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n", reason(status), body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.push_str(body);
        self.bytes(head.as_bytes()).await
    }

    /// Writes the head of a stream of events.
    pub(crate) async fn stream_head(&mut self) -> io::Result<()> {
        self.bytes(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n").await
    }

    /// Writes a piece of the stream as a chunk.
    pub(crate) async fn chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        self.bytes(&chunk).await
    }

    /// Ends the stream as a complete one.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.bytes(b"0\r\n\r\n").await
    }

    /// Closes with a reset instead of an end.
    pub(crate) fn reset(self) {
        // Where this fails the connection ends in the ordinary way, which is as broken for the client.
        let _ = self.stream.set_zero_linger();
    }

    async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        529 => "Overloaded",
        _ => "Status",
    }
}
