//! Messages over a stream, encrypted and authenticated.
//!
//! The handshake is Noise `NNpsk0` (revision 34 of the Noise Protocol Framework): both show that they have the key, and agree on
//! keys that are gone with the connection. Nobody without the key gets a message across, nor reads one; whoever gets hold of it
//! later cannot read what was said before.
//!
//! Each frame is its length, two bytes in network order, and as many bytes of ciphertext. A frame that is altered, repeated, left
//! out, or taken from another connection does not decrypt, which ends the connection.

use std::{io::ErrorKind, sync::Arc};

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};

use super::key_file::Key;
use crate::core::sync::{LIMIT, Message, WireError};

/// The handshake and the ciphers.
const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// What both mix in, so that the key opens nothing but this.
const PROLOGUE: &[u8] = b"lb-ctl peer";

/// How many bytes longer than its text a frame is: the authentication tag.
const TAG: usize = 16;

/// The longest frame.
const FRAME: usize = LIMIT + TAG;

/// How long each of the two messages of the handshake is: a public key of X25519, and a tag.
const HANDSHAKE: usize = 32 + TAG;

/// Why there is no channel, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The stream failed or has ended.
    #[error("expected the connection to the peer to last: {0}")]
    Stream(#[from] std::io::Error),
    /// Something does not decrypt.
    #[error(
        "expected a peer with the same key, found one with another, or somebody who has altered the connection"
    )]
    Key,
    /// The other end hangs up instead of showing that it has the key.
    #[error(
        "expected a peer with the same key, found one that hangs up when it is shown ours; its log says why: compare the key files"
    )]
    HungUp,
    /// The cipher cannot be used.
    #[error("expected to encrypt a connection to the peer: {0}")]
    Cipher(snow::Error),
    /// A frame that nobody has sent.
    #[error("expected a frame of {TAG} to {FRAME} bytes, found one of {0}: is it lb-ctl that answers there?")]
    Length(usize),
    /// Something decrypts and is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The half that speaks.
pub(super) struct Sender<S> {
    stream: WriteHalf<S>,
    cipher: Arc<StatelessTransportState>,
    /// The number of the next frame.
    next: u64,
}

/// The half that listens.
pub(super) struct Receiver<S> {
    stream: ReadHalf<S>,
    cipher: Arc<StatelessTransportState>,
    /// The number of the next frame.
    next: u64,
}

/// Opens a channel to whoever answers.
pub(super) async fn open<S: AsyncRead + AsyncWrite>(
    stream: S,
    key: &Key,
) -> Result<(Sender<S>, Receiver<S>), ChannelError> {
    let mut handshake = prepared(key)?.build_initiator().map_err(ChannelError::Cipher)?;
    let (mut reading, mut writing) = split(stream);
    say(&mut handshake, &mut writing).await?;
    listen(&mut handshake, &mut reading).await?;
    channel(handshake, reading, writing)
}

/// Answers somebody who opens a channel.
pub(super) async fn answer<S: AsyncRead + AsyncWrite>(
    stream: S,
    key: &Key,
) -> Result<(Sender<S>, Receiver<S>), ChannelError> {
    let mut handshake = prepared(key)?.build_responder().map_err(ChannelError::Cipher)?;
    let (mut reading, mut writing) = split(stream);
    listen(&mut handshake, &mut reading).await?;
    say(&mut handshake, &mut writing).await?;
    channel(handshake, reading, writing)
}

fn prepared(key: &Key) -> Result<Builder<'_>, ChannelError> {
    let parameters = NOISE.parse().map_err(ChannelError::Cipher)?;
    Builder::new(parameters)
        .prologue(PROLOGUE)
        .and_then(|builder| builder.psk(0, key.bytes()))
        .map_err(ChannelError::Cipher)
}

async fn say<S: AsyncWrite>(
    handshake: &mut HandshakeState,
    stream: &mut WriteHalf<S>,
) -> Result<(), ChannelError> {
    let mut message = [0; HANDSHAKE];
    let length = handshake
        .write_message(&[], &mut message)
        .map_err(ChannelError::Cipher)?;
    Ok(stream
        .write_all(message.get(..length).unwrap_or_default())
        .await?)
}

async fn listen<S: AsyncRead>(
    handshake: &mut HandshakeState,
    stream: &mut ReadHalf<S>,
) -> Result<(), ChannelError> {
    let mut message = [0; HANDSHAKE];
    match stream.read_exact(&mut message).await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(ChannelError::HungUp),
        read => read?,
    };
    handshake
        .read_message(&message, &mut [])
        .map(drop)
        .map_err(|_| ChannelError::Key)
}

fn channel<S>(
    handshake: HandshakeState,
    reading: ReadHalf<S>,
    writing: WriteHalf<S>,
) -> Result<(Sender<S>, Receiver<S>), ChannelError> {
    let cipher = handshake
        .into_stateless_transport_mode()
        .map_err(ChannelError::Cipher)?;
    let cipher = Arc::new(cipher);
    let sender = Sender {
        stream: writing,
        cipher: Arc::clone(&cipher),
        next: 0,
    };
    let receiver = Receiver {
        stream: reading,
        cipher,
        next: 0,
    };
    Ok((sender, receiver))
}

impl<S: AsyncWrite> Sender<S> {
    /// Sends a message. Whoever gives up waiting for it must give up the channel too.
    pub(super) async fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        let text = message.encode()?;
        let mut frame = vec![0; size_of::<u16>() + text.len() + TAG];
        let (head, body) = frame.split_at_mut(size_of::<u16>());
        let length = self
            .cipher
            .write_message(self.next, &text, body)
            .map_err(ChannelError::Cipher)?;
        let length = u16::try_from(length).map_err(|_| ChannelError::Length(length))?;
        head.copy_from_slice(&length.to_be_bytes());
        self.next += 1;
        Ok(self.stream.write_all(&frame).await?)
    }
}

impl<S: AsyncRead> Receiver<S> {
    /// Waits for a message. Whoever gives up waiting for it must give up the channel too.
    pub(super) async fn receive(&mut self) -> Result<Message, ChannelError> {
        let length = usize::from(self.stream.read_u16().await?);
        if !(TAG..=FRAME).contains(&length) {
            return Err(ChannelError::Length(length));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await?;
        let mut text = vec![0; length - TAG];
        let read = self
            .cipher
            .read_message(self.next, &frame, &mut text)
            .map_err(|_| ChannelError::Key)?;
        self.next += 1;
        Ok(Message::decode(text.get(..read).unwrap_or_default())?)
    }
}
