//! The channel over streams in memory, with somebody between the two who means ill.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};

use super::*;
use crate::core::sync::{LIMIT, Message};

const ROOM: usize = 1 << 18;

fn key(digit: &str) -> Key {
    Key::of_text(digit.repeat(64).as_bytes()).unwrap()
}

fn farewell(text: &str) -> Message {
    Message::Farewell(text.to_owned())
}

/// What somebody makes of two frames.
type Tampering = fn(Vec<u8>, Vec<u8>) -> Vec<u8>;

type Side = (Sender<DuplexStream>, Receiver<DuplexStream>);

/// Two sides whose handshake somebody has carried, and the streams of whom they now talk to.
async fn with_a_carrier() -> (Side, Side, DuplexStream, DuplexStream) {
    let (one, mut to_one) = duplex(ROOM);
    let (other, mut to_other) = duplex(ROOM);
    let key = key("1");
    let carry = async {
        let mut message = [0; 48];
        to_one.read_exact(&mut message).await.unwrap();
        to_other.write_all(&message).await.unwrap();
        to_other.read_exact(&mut message).await.unwrap();
        to_one.write_all(&message).await.unwrap();
    };
    let (opened, answered, ()) = tokio::join!(open(one, &key), answer(other, &key), carry);
    (opened.unwrap(), answered.unwrap(), to_one, to_other)
}

/// The next frame that somebody has sent, its length included.
async fn frame(from: &mut DuplexStream) -> Vec<u8> {
    let length = from.read_u16().await.unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(2 + usize::from(length), 0);
    from.read_exact(&mut frame[2..]).await.unwrap();
    frame
}

#[tokio::test]
async fn messages_get_across_both_ways_and_nobody_else_can_read_them() {
    let ((mut sender, mut receiver), (mut back, mut there), mut to_one, mut to_other) =
        with_a_carrier().await;
    let longest = farewell(&"secret ".repeat(LIMIT / 7 - 1));
    for message in [&farewell("secret one"), &longest, &Message::Taken { number: 3 }] {
        sender.send(message).await.unwrap();
        let frame = frame(&mut to_one).await;
        assert!(!frame.windows(6).any(|bytes| bytes == b"secret"));
        to_other.write_all(&frame).await.unwrap();
        assert_eq!(&there.receive().await.unwrap(), message);
    }
    back.send(&farewell("bye")).await.unwrap();
    let frame = frame(&mut to_other).await;
    to_one.write_all(&frame).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), farewell("bye"));
}

#[tokio::test]
async fn another_key_opens_nothing() {
    let (one, other) = duplex(ROOM);
    let (right, wrong) = (key("1"), key("2"));
    let (opened, answered) = tokio::join!(open(one, &wrong), answer(other, &right));
    assert!(
        matches!(answered, Err(ChannelError::Key)),
        "who has another key is not even answered"
    );
    assert!(matches!(opened, Err(ChannelError::HungUp)));
}

#[tokio::test]
async fn what_is_altered_repeated_left_out_or_cut_ends_the_channel() {
    let ways: [Tampering; 4] = [
        |mut first, _| {
            first[5] ^= 1;
            first
        },
        |first, _| [first.clone(), first].concat(),
        |_, second| second,
        |first, second| [second, first].concat(),
    ];
    for (number, way) in ways.iter().enumerate() {
        let ((mut sender, _), (_back, mut there), mut to_one, mut to_other) = with_a_carrier().await;
        sender.send(&farewell("one")).await.unwrap();
        sender.send(&farewell("two")).await.unwrap();
        let (first, second) = (frame(&mut to_one).await, frame(&mut to_one).await);
        to_other.write_all(&way(first, second)).await.unwrap();
        let mut result = there.receive().await;
        if number == 1 {
            assert_eq!(result.unwrap(), farewell("one"), "the first is right");
            result = there.receive().await;
        }
        assert!(matches!(result, Err(ChannelError::Key)), "{number}: {result:?}");
    }
    let ((mut sender, _), (_back, mut there), mut to_one, mut to_other) = with_a_carrier().await;
    sender.send(&farewell("one")).await.unwrap();
    let cut = frame(&mut to_one).await;
    to_other.write_all(&cut[..cut.len() - 1]).await.unwrap();
    drop(to_other);
    assert!(matches!(there.receive().await, Err(ChannelError::Stream(_))));
}

#[tokio::test]
async fn what_was_recorded_is_of_no_use_later() {
    let key = key("1");
    let (one, mut to_one) = duplex(ROOM);
    let (other, mut to_other) = duplex(ROOM);
    // Somebody listens to a whole connection, …
    let carry = async {
        let mut hello = [0; 48];
        to_one.read_exact(&mut hello).await.unwrap();
        to_other.write_all(&hello).await.unwrap();
        let mut reply = [0; 48];
        to_other.read_exact(&mut reply).await.unwrap();
        to_one.write_all(&reply).await.unwrap();
        hello
    };
    let (opened, answered, hello) = tokio::join!(open(one, &key), answer(other, &key), carry);
    let (mut sender, _receiver) = opened.unwrap();
    drop(answered);
    sender.send(&farewell("one")).await.unwrap();
    let said = frame(&mut to_one).await;
    // … and plays it to the same side again: the hello is answered, since there is no telling, but what follows is for other keys.
    let (again, mut attacker) = duplex(ROOM);
    attacker.write_all(&hello).await.unwrap();
    let (_back, mut there) = answer(again, &key).await.unwrap();
    attacker.write_all(&said).await.unwrap();
    assert!(matches!(there.receive().await, Err(ChannelError::Key)));
}

#[tokio::test]
async fn lengths_that_nobody_sends_and_silence_reserve_nothing() {
    for length in [0_u16, 15, 65_017, u16::MAX] {
        let (_one, (_back, mut there), _to_one, mut to_other) = with_a_carrier().await;
        to_other.write_all(&length.to_be_bytes()).await.unwrap();
        let result = there.receive().await;
        assert!(
            matches!(result, Err(ChannelError::Length(found)) if found == usize::from(length)),
            "{result:?}"
        );
    }
    let (silent, _stays) = duplex(ROOM);
    let key = key("1");
    let answered = timeout(Duration::from_millis(50), answer(silent, &key)).await;
    assert!(answered.is_err(), "whoever answers has to give up by itself");
}
