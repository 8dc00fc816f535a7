//! Somebody at the port where balancers meet, who has their key and is none, or none of this version. Made anew from the description
//! of the protocol, not by the code that is tested.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use lab::balancing::PATIENCE;
use lab::{Host, wait_until};
use lb_ctl::core::sync::Message;
use snow::{Builder, HandshakeState, TransportState};

/// How long each message of the handshake is.
const HANDSHAKE: usize = 48;
/// The longest frame.
const FRAME: usize = 65_016;
/// The key of a [`lab::balancing::Pair`].
const KEY: [u8; 32] = [0xaa; 32];

/// What follows the versions in the greeting of a balancer `lb9`, program 9.0.0, as lb-ctl 0.1.0 sends it with the seed and the number of slots
/// that are usual. Recorded: it is how balancers of all versions begin, so it must not change, but by more at its end.
const GREETING: &[u8] = b"\x03lb9\x059.0.0\xd1\xda\xf8\xe4\xbc\xb2\xcd\xc3\x1b\x81\x80\x04";

/// The greeting of a balancer that speaks these versions, each less than 128: larger numbers take more than a byte.
pub(super) fn greeting(oldest: u16, newest: u16) -> Vec<u8> {
    let [oldest, newest] = [oldest, newest].map(|version| u8::try_from(version).unwrap());
    [&[0, oldest, newest], GREETING].concat()
}

/// A connection to a balancer, encrypted with the right key.
pub(super) struct Visitor {
    stream: TcpStream,
    cipher: TransportState,
}

impl Visitor {
    /// Goes to a balancer.
    pub(super) fn go(from: &Host, to: SocketAddr) -> Self {
        let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = patient(stream.unwrap().unwrap());
        let mut handshake = prepared().build_initiator().unwrap();
        say(&mut handshake, &mut stream);
        listen(&mut handshake, &mut stream);
        Self::new(stream, handshake)
    }

    /// Waits for a balancer that comes.
    pub(super) fn receive(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let accepted = wait_until("a balancer to come", PATIENCE, || listener.accept());
        let mut stream = patient(accepted.unwrap().0);
        let mut handshake = prepared().build_responder().unwrap();
        listen(&mut handshake, &mut stream);
        say(&mut handshake, &mut stream);
        Self::new(stream, handshake)
    }

    fn new(stream: TcpStream, handshake: HandshakeState) -> Self {
        Self {
            stream,
            cipher: handshake.into_transport_mode().unwrap(),
        }
    }

    /// Says something, whatever it is.
    pub(super) fn say(&mut self, text: &[u8]) {
        let mut frame = vec![0; FRAME];
        let length = self.cipher.write_message(text, &mut frame).unwrap();
        let head = u16::try_from(length).unwrap().to_be_bytes();
        self.stream
            .write_all(&[&head, &frame[..length]].concat())
            .unwrap();
    }

    /// The next message of the balancer.
    pub(super) fn hear(&mut self) -> Message {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        let mut frame = vec![0; u16::from_be_bytes(head).into()];
        self.stream.read_exact(&mut frame).unwrap();
        let mut text = vec![0; frame.len()];
        let length = self.cipher.read_message(&frame, &mut text).unwrap();
        Message::decode(&text[..length]).unwrap()
    }

    /// Whether the balancer has hung up. What it has said before is passed over.
    pub(super) fn is_left(&mut self) -> bool {
        has_ended(&mut self.stream)
    }
}

/// Whether the other end has hung up. What it has said before is passed over.
pub(super) fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn prepared() -> Builder<'static> {
    let noise = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
    Builder::new(noise)
        .prologue(b"lb-ctl peer")
        .unwrap()
        .psk(0, &KEY)
        .unwrap()
}

fn say(handshake: &mut HandshakeState, stream: &mut TcpStream) {
    let mut message = [0; HANDSHAKE];
    assert_eq!(handshake.write_message(&[], &mut message).unwrap(), HANDSHAKE);
    stream.write_all(&message).unwrap();
}

fn listen(handshake: &mut HandshakeState, stream: &mut TcpStream) {
    let mut message = [0; HANDSHAKE];
    stream.read_exact(&mut message).unwrap();
    assert_eq!(handshake.read_message(&message, &mut []).unwrap(), 0);
}
