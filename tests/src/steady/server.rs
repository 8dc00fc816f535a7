//! The server: answers every line with the line and its own identity.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::conversation::{Identity, LONGEST_REPLY, reply};

/// Serves connections for ever, each on a task of its own.
pub async fn serve(listener: TcpListener, name: String) -> io::Result<()> {
    for serial in 1.. {
        let (stream, _) = accept(&listener).await?;
        let identity = Identity {
            name: name.clone(),
            serial,
        };
        // How a connection ends is its client's to judge.
        tokio::spawn(async move { answer(stream, &identity).await });
    }
    Ok(())
}

/// Accepts a connection. One that ended while it waited for that is the client's affair as well.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    loop {
        match listener.accept().await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            accepted => return accepted,
        }
    }
}

async fn answer(stream: TcpStream, identity: &Identity) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut stream).take(LONGEST_REPLY as u64);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(&reply(&line, identity)).await?;
    }
}
