//! The question to a HiveServer2 port.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connection::{Connector, Trouble};
use super::target::ClientPort;
use crate::core::health::probe::{ANSWER_LIMIT, Authentication, Finding, Progress, get_info, sasl};

/// Asks, and reads until the answer is complete.
pub(super) async fn ask(connector: &Connector, client: &ClientPort) -> Result<Finding, Trouble> {
    let mut stream = connector.open(client.port, client.tls.as_ref()).await?;
    let request: &[u8] = match client.authentication {
        Authentication::None => &get_info::REQUEST,
        Authentication::Sasl => &sasl::REQUEST,
    };
    let read = match client.authentication {
        Authentication::None => get_info::read,
        Authentication::Sasl => sasl::read,
    };
    let port = client.port;
    let conversation = async {
        let broken = |error| Trouble::broken(&format!("port {port}: expected an answer, found"), &error);
        stream.write_all(request).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            // The readers give up at the limit, so the buffer cannot outgrow it.
            let room = ANSWER_LIMIT.saturating_sub(answer.len());
            let mut limited = (&mut stream).take(room as u64);
            if limited.read_buf(&mut answer).await.map_err(broken)? == 0 {
                return Err(Trouble::Broken(ended(client, answer.len())));
            }
            if let Progress::Complete(finding) = read(&answer) {
                return Ok(finding);
            }
        }
    };
    connector.deadline.or_late(conversation).await
}

/// What to say about a server that has closed the connection.
fn ended(client: &ClientPort, received: usize) -> String {
    let port = client.port;
    if received > 0 {
        return format!("port {port}: the connection was closed after {received} bytes of an answer");
    }
    // That is what a server does which expects the other way to begin.
    let hint = match (client.authentication, &client.tls) {
        (Authentication::None, None) => "; if it wants Kerberos, LDAP or TLS, say so",
        (Authentication::None, Some(_)) => "; if it wants Kerberos or LDAP, say so",
        (Authentication::Sasl, _) => "; if it wants neither Kerberos nor LDAP, leave SASL out",
    };
    format!("port {port}: the connection was closed without an answer{hint}")
}
