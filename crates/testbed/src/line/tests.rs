use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{pump::MAX_BYTES_BEFORE_CUT, *};

const LONG: Duration = Duration::from_secs(20);

/// A line to a server that sends everything back.
async fn echo(notifications: Option<Way>) -> (Line, AbortOnDropHandle<()>) {
    echo_by(Settings { notifications, seed: 1, ..Settings::default() }).await
}

async fn echo_by(settings: Settings) -> (Line, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let line = Line::to(port, settings).await.unwrap();
    (line, AbortOnDropHandle::new(server))
}

fn reorder(hold: Hold) -> Disturb {
    Disturb { how: How::Reorder(hold), seed: 1 }
}

async fn read(stream: &mut TcpStream, count: usize) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = vec![0; count];
    let read = tokio::time::timeout(LONG, stream.read_exact(&mut bytes)).await;
    read.expect("in time").map_err(|error| error.kind())?;
    Ok(bytes)
}

#[tokio::test]
async fn what_stands_still_goes_on_afterwards() {
    for stalled in [(true, false), (false, true), (true, true)] {
        let (line, _server) = echo(None).await;
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut stream, 3).await.unwrap(), b"one");
        line.set(|trouble| trouble.stalled = stalled);
        stream.write_all(b"two").await.unwrap();
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(100), stream.peek(&mut byte)).await;
        assert!(early.is_err(), "{stalled:?}: {early:?}");
        line.set(|trouble| *trouble = Trouble::default());
        assert_eq!(read(&mut stream, 3).await.unwrap(), b"two");
    }
}

#[tokio::test]
async fn what_is_late_comes_late() {
    let (line, _server) = echo(None).await;
    let late = Duration::from_millis(60);
    line.set(|trouble| trouble.late = Some(late));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    let began = Instant::now();
    stream.write_all(b"x").await.unwrap();
    read(&mut stream, 1).await.unwrap();
    assert!(began.elapsed() >= late * 2);
}

#[tokio::test]
async fn connections_are_reset_and_refused() {
    for sever in [Sever::Reset, Sever::Refuse] {
        let (line, _server) = echo(None).await;
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        read(&mut stream, 3).await.unwrap();
        line.set(|trouble| trouble.sever = Some(sever));
        assert_eq!(read(&mut stream, 1).await, Err(ErrorKind::ConnectionReset), "{sever:?}");
    }
    let (line, _server) = echo(None).await;
    line.set(|trouble| trouble.sever = Some(Sever::Refuse));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    let _ = stream.write_all(b"one").await;
    assert!(read(&mut stream, 3).await.is_err());
    line.set(|trouble| trouble.sever = None);
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"one").await.unwrap();
    assert_eq!(read(&mut stream, 3).await.unwrap(), b"one");
}

#[tokio::test]
async fn an_answer_is_cut_within_itself() {
    let (line, _server) = echo(None).await;
    line.set(|trouble| trouble.sever = Some(Sever::Cut));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    let sent = vec![7; 2 * MAX_BYTES_BEFORE_CUT as usize];
    stream.write_all(&sent).await.unwrap();
    let mut found = Vec::new();
    let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut found)).await.expect("in time");
    assert!(ended.is_ok() || !found.is_empty());
    assert!((1..sent.len()).contains(&found.len()), "{}", found.len());
}

#[tokio::test]
async fn notifications_are_held_back_only_for_a_while() {
    let (line, _server) = echo(Some(Way::There)).await;
    line.set(|trouble| trouble.disturb = Some(reorder(Hold::default())));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    let message = b"PUB changes.store.1 2\r\nab\r\n";
    stream.write_all(&[message.as_slice(), b"PING\r\n"].concat()).await.unwrap();
    assert_eq!(read(&mut stream, 6).await.unwrap(), b"PING\r\n");
    assert_eq!(read(&mut stream, message.len()).await.unwrap(), message);
}

#[tokio::test]
async fn what_is_held_up_can_be_seen_and_only_that() {
    let (line, _server) = echo_by(Settings { keeps: true, ..Settings::default() }).await;
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"one").await.unwrap();
    assert_eq!(read(&mut stream, 3).await.unwrap(), b"one");
    assert_eq!((line.said(Way::There), line.said(Way::Back)), ("one".into(), "one".into()));
    line.hold(Way::Back);
    stream.write_all(b"two").await.unwrap();
    crate::eventually("an answer is on its way", || async {
        (line.said(Way::Back) == "two").then_some(())
    })
    .await;
    assert_eq!(line.said(Way::There), "onetwo");
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), stream.peek(&mut byte)).await;
    assert!(early.is_err(), "{early:?}");
    line.release();
    assert_eq!(read(&mut stream, 3).await.unwrap(), b"two");
    let (forgetful, _server) = echo(None).await;
    let mut stream = TcpStream::connect(forgetful.address()).await.unwrap();
    stream.write_all(b"one").await.unwrap();
    read(&mut stream, 3).await.unwrap();
    assert_eq!(forgetful.said(Way::There), "");
}

#[tokio::test]
async fn a_line_that_is_cut_can_be_mended() {
    let (line, _server) = echo(None).await;
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"one").await.unwrap();
    read(&mut stream, 3).await.unwrap();
    line.cut();
    read(&mut stream, 1).await.unwrap_err();
    line.mend();
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"two").await.unwrap();
    assert_eq!(read(&mut stream, 3).await.unwrap(), b"two");
}

#[tokio::test]
async fn what_is_held_back_is_let_through_when_the_disturbance_ends() {
    let (line, _server) = echo(Some(Way::There)).await;
    let hold = Hold { longest: LONG * 10, ..Hold::default() };
    line.set(|trouble| trouble.disturb = Some(reorder(hold)));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    let message = b"PUB changes.store.1 2\r\nab\r\n";
    stream.write_all(&[message.as_slice(), b"PING\r\n"].concat()).await.unwrap();
    assert_eq!(read(&mut stream, 6).await.unwrap(), b"PING\r\n");
    line.set(|trouble| trouble.disturb = None);
    assert_eq!(read(&mut stream, message.len()).await.unwrap(), message);
}

#[tokio::test]
async fn requests_are_answered_with_503_and_none_reaches_the_server() {
    let (line, _server) = echo(None).await;
    let mut before = TcpStream::connect(line.address()).await.unwrap();
    before.write_all(b"one").await.unwrap();
    read(&mut before, 3).await.unwrap();
    line.set(|trouble| trouble.sever = Some(Sever::Unavailable));
    assert_eq!(read(&mut before, 1).await, Err(ErrorKind::ConnectionReset));
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut found = String::new();
    tokio::time::timeout(LONG, stream.read_to_string(&mut found)).await.unwrap().unwrap();
    assert!(found.starts_with("HTTP/1.1 503 ") && found.contains("Retry-After: 1"), "{found}");
    line.mend();
    let mut stream = TcpStream::connect(line.address()).await.unwrap();
    stream.write_all(b"two").await.unwrap();
    assert_eq!(read(&mut stream, 3).await.unwrap(), b"two");
}
