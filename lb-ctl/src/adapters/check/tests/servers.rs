//! Servers, good and bad. They end with the runtime of the test.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::LOOPBACK;

/// Starts a server that treats each connection alike. Returns its port.
pub(super) async fn serve<B>(behave: impl Fn(TcpStream) -> B + Send + 'static) -> u16
where
    B: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream));
        }
    });
    port
}

/// Reads a request, of which only the begin matters, sends an answer, and closes.
pub(in crate::adapters) async fn answering(answer: impl Into<Vec<u8>>) -> u16 {
    let answer = answer.into();
    serve(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_some(&mut stream).await?;
            stream.write_all(&answer).await?;
            close(stream).await
        }
    })
    .await
}

/// Sends part of an answer and then nothing more, without closing.
pub(super) async fn stopping_after(part: impl Into<Vec<u8>>) -> u16 {
    let part = part.into();
    serve(move |mut stream| {
        let part = part.clone();
        async move {
            stream.write_all(&part).await?;
            std::future::pending().await
        }
    })
    .await
}

/// Sends an answer one byte at a time, with a pause after each.
pub(in crate::adapters) async fn dripping(answer: impl Into<Vec<u8>>, pause: Duration) -> u16 {
    let answer = answer.into();
    serve(move |mut stream| {
        let answer = answer.clone();
        async move {
            stream.set_nodelay(true)?;
            for byte in answer {
                stream.write_all(&[byte]).await?;
                sleep(pause).await;
            }
            close(stream).await
        }
    })
    .await
}

/// Sends the begin of an answer and then the same bytes for ever.
pub(super) async fn endless(begin: impl Into<Vec<u8>>, more: impl Into<Vec<u8>>) -> u16 {
    let (begin, more) = (begin.into(), more.into().repeat(1_000));
    serve(move |mut stream| {
        let (begin, more) = (begin.clone(), more.clone());
        async move {
            stream.write_all(&begin).await?;
            loop {
                stream.write_all(&more).await?;
            }
        }
    })
    .await
}

/// A port at which nobody listens.
pub(in crate::adapters) async fn nobody() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// A port whose queue of connections is full, so that the kernel ignores further attempts. It stays so as long as the
/// returned sockets live.
pub(in crate::adapters) async fn mute() -> (u16, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((LOOPBACK, 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    for _ in 0..4 {
        // The first ones fill the queue; the kernel does that at once, whether we see it in time or not.
        queued.push(timeout(Duration::from_millis(50), TcpStream::connect(address)).await);
    }
    (address.port(), (listener, queued))
}

/// An HTTP answer with a body.
pub(in crate::adapters) fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Web pages: each path with its answer; 404 for all others.
pub(in crate::adapters) async fn pages(pages: Vec<(&'static str, String)>) -> u16 {
    serve(move |mut stream| {
        let pages = pages.clone();
        async move {
            let request = read_some(&mut stream).await?;
            let asked = pages
                .iter()
                .find(|(path, _)| request.starts_with(format!("GET {path} HTTP/1.1\r\n").as_bytes()));
            let answer = asked.map_or_else(|| http("404 Not Found", ""), |(_, answer)| answer.clone());
            stream.write_all(answer.as_bytes()).await?;
            close(stream).await
        }
    })
    .await
}

pub(super) async fn read_some(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    request.truncate(length);
    Ok(request)
}

/// Closes in order: waits for the other end, lest unread bytes turn the end into a reset that overtakes the answer.
async fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
