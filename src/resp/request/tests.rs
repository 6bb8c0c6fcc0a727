//! What a client may send, rule by rule.

use super::*;

fn limits() -> Limits {
    Limits::default()
}

fn strangers() -> Limits {
    Limits {
        authenticated: false,
        ..Limits::default()
    }
}

/// The text after `-ERR Protocol error: `.
fn fault(input: &[u8], limits: &Limits) -> String {
    let error = RequestScanner::new().scan(input, limits).err();
    let mut scanner = RequestScanner::new();
    let bytewise = input
        .chunks(1)
        .find_map(|byte| scanner.scan(byte, limits).err());
    assert_eq!(bytewise, error, "the cuts change nothing");
    match error {
        Some(RequestError::Protocol(error)) => error.0.into_owned(),
        other => panic!("{} gave {other:?}", input.escape_ascii()),
    }
}

fn complete(input: &[u8], kind: Kind) -> RequestScanner {
    let mut scanner = RequestScanner::new();
    let mut padded = input.to_vec();
    padded.extend_from_slice(b"*more");
    let scan = scanner.scan(&padded, &limits()).expect("a command");
    assert_eq!(
        scan,
        Scan::Complete {
            consumed: input.len(),
            kind
        }
    );
    assert!(scanner.is_idle());
    assert_eq!(scanner.completed(), input.len() as u64);
    scanner
}

#[test]
fn finds_the_end_and_the_first_arguments() {
    let command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n";
    let scanner = complete(command, Kind::Multibulk);
    assert_eq!(scanner.argc(), 3);
    assert_eq!(&command[scanner.arg(0).expect("name")], b"SET");
    assert_eq!(&command[scanner.arg(1).expect("key")], b"k");
    assert_eq!(scanner.arg(2), None);
    assert_eq!(args(command).collect::<Vec<_>>(), [&b"SET"[..], b"k", b""]);
}

#[test]
fn nothing_to_do_is_empty() {
    for input in [
        "*0\r\n",
        "*-1\r\n",
        "*-9223372036854775808\r\n",
        "\r\n",
        "\n",
        "  \t \r\n",
    ] {
        assert_eq!(
            complete(input.as_bytes(), Kind::Empty).argc(),
            0,
            "{input:?}"
        );
    }
}

#[test]
fn a_line_is_an_inline_command() {
    for input in [
        "PING\r\n",
        "PING\n",
        " get k\r\n",
        "$3\r\n",
        "\"\n",
        "\x7f\n",
    ] {
        let scanner = complete(input.as_bytes(), Kind::Inline);
        assert_eq!((scanner.argc(), scanner.arg(0)), (0, None), "{input:?}");
    }
}

#[test]
fn errors_have_redis_own_words() {
    let long =
        |start: &str, len: usize| start.bytes().chain([b'A'].repeat(len)).collect::<Vec<_>>();
    let table: &[(&[u8], &str)] = &[
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*00\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"* 1\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*9223372036854775808\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*1\r\nPING\r\n", "expected '$', got 'P'"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$-0\r\n", "invalid bulk length"),
        (b"*1\r\n$+4\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$ 4\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$4x\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"*1\r\n$18446744073709551615\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n3\r\n", "expected '$', got '3'"),
        (&long("*", 65_536), "too big mbulk count string"),
        (&long("*1\r\n$", 65_536), "too big bulk count string"),
        (&long("*1\r\n:", 65_536), "too big bulk count string"),
        (&long("", 65_537), "too big inline request"),
    ];
    for (input, text) in table {
        assert_eq!(
            fault(input, &limits()),
            *text,
            "{:?}",
            input.escape_ascii().to_string()
        );
    }
}

#[test]
fn stricter_than_redis_where_a_line_or_a_bulk_ends_wrong() {
    let table: &[(&[u8], &str)] = &[
        (b"*1\rx", "invalid multibulk length"),
        (b"*1\r\n$4\rx", "invalid bulk length"),
        (b"*1\r\n$4\r\nPING\n\r", "invalid bulk length"),
        (b"*1\r\n$4\r\nPINGxx", "invalid bulk length"),
        (b"*1\r\n$4\r\nPING\rx", "invalid bulk length"),
        (b"*1\r\n$4\r\nPINGPONG\r\n", "invalid bulk length"),
    ];
    for (input, text) in table {
        assert_eq!(
            fault(input, &limits()),
            *text,
            "{:?}",
            input.escape_ascii().to_string()
        );
    }
}

#[test]
fn an_error_quotes_no_unprintable_byte() {
    for (byte, shown) in [
        (0u8, '?'),
        (0x1b, '?'),
        (0x7f, '?'),
        (0xff, '?'),
        (b'~', '~'),
        (b'\'', '\''),
    ] {
        let input = [b"*1\r\n", &[byte][..], b"\r\n"].concat();
        assert_eq!(
            fault(&input, &limits()),
            format!("expected '$', got '{shown}'")
        );
    }
}

#[test]
fn a_length_line_that_is_too_long_is_known_without_its_end() {
    let mut scanner = RequestScanner::new();
    let mut whole = b"*1".to_vec();
    whole.resize(MAX_INLINE, b'1');
    assert_eq!(scanner.scan(&whole, &limits()), Ok(Scan::Incomplete));
    assert!(scanner.scan(b"1", &limits()).is_err());
    let mut line = vec![b'a'; MAX_INLINE];
    assert_eq!(
        RequestScanner::new().scan(&line, &limits()),
        Ok(Scan::Incomplete)
    );
    line.push(b'\n');
    complete(&line, Kind::Inline);
}

#[test]
fn a_line_with_a_nul_never_ends() {
    let mut scanner = RequestScanner::new();
    assert_eq!(
        scanner.scan(b"FLUSHALL\0\r\nPING\r\n", &limits()),
        Ok(Scan::Incomplete)
    );
    let error = scanner
        .scan(&vec![b'\n'; MAX_INLINE], &limits())
        .expect_err("too long");
    assert_eq!(error.to_string(), "Protocol error: too big inline request");
}

#[test]
fn strangers_may_send_little() {
    let many = "*11\r\n";
    assert_eq!(
        fault(many.as_bytes(), &strangers()),
        "unauthenticated multibulk length"
    );
    let long = "*2\r\n$4\r\nAUTH\r\n$16385\r\n";
    assert_eq!(
        fault(long.as_bytes(), &strangers()),
        "unauthenticated bulk length"
    );
    // What nobody may send is called by its own name.
    assert_eq!(
        fault(b"*2147483648\r\n", &strangers()),
        "invalid multibulk length"
    );
    assert_eq!(
        fault(b"*1\r\n$536870913\r\n", &strangers()),
        "invalid bulk length"
    );
    for fine in ["*10\r\n", "*2\r\n$4\r\nAUTH\r\n$16384\r\n"] {
        let scan = RequestScanner::new().scan(fine.as_bytes(), &strangers());
        assert_eq!(scan, Ok(Scan::Incomplete), "{fine:?}");
        assert_eq!(
            RequestScanner::new().scan(long.as_bytes(), &limits()),
            Ok(Scan::Incomplete)
        );
    }
}

#[test]
fn limits_are_those_given() {
    let small = Limits {
        max_args: 2,
        max_bulk: 3,
        authenticated: true,
    };
    assert_eq!(fault(b"*3\r\n", &small), "invalid multibulk length");
    assert_eq!(fault(b"*2\r\n$4\r\n", &small), "invalid bulk length");
    let fine = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
    assert!(matches!(
        RequestScanner::new().scan(fine, &small),
        Ok(Scan::Complete { .. })
    ));
}

#[test]
fn http_and_tls_are_known_from_their_first_line_or_byte() {
    for line in ["GET / HTTP/1.1\r\n", "POST /\r\n", "Host: x\n"] {
        let error = RequestScanner::new().scan(line.as_bytes(), &limits());
        assert_eq!(error, Err(RequestError::Http), "{line:?}");
    }
    assert_eq!(
        RequestScanner::new().scan(b"\x16\x03\x01", &limits()),
        Err(RequestError::Tls)
    );
    let mut scanner = RequestScanner::new();
    assert!(scanner.scan(b"PING\n", &limits()).is_ok());
    assert_eq!(scanner.scan(b"\x16", &limits()), Err(RequestError::Tls));
}

#[test]
fn an_error_stays() {
    let mut scanner = RequestScanner::new();
    let first = scanner.scan(b"*x\r\n", &limits()).expect_err("no number");
    for input in [&b"*1\r\n$4\r\nPING\r\n"[..], b"", b"\n"] {
        assert_eq!(scanner.scan(input, &limits()).as_ref(), Err(&first));
        assert!(!scanner.is_idle());
    }
}

#[test]
fn a_large_command_is_known_before_it_arrives() {
    let mut scanner = RequestScanner::new();
    assert_eq!((scanner.consumed(), scanner.at_least()), (0, 0));
    scanner.scan(b"*3\r\n", &limits()).expect("fine");
    assert_eq!((scanner.consumed(), scanner.at_least()), (4, 4 + 18));
    scanner
        .scan(b"$3\r\nSET\r\n$1\r\nk\r\n$1000", &limits())
        .expect("fine");
    assert_eq!(scanner.at_least(), scanner.consumed() + 1);
    scanner.scan(b"00\r\nab", &limits()).expect("fine");
    assert_eq!(scanner.consumed(), 4 + 9 + 7 + 9 + 2);
    assert_eq!(scanner.at_least(), 4 + 9 + 7 + 9 + 100_002);
    assert_eq!(scanner.arg(1), Some(17..18));
    assert!(!scanner.is_idle());
}

#[test]
fn an_argument_is_shown_only_once_it_is_whole() {
    let mut scanner = RequestScanner::new();
    scanner.scan(b"*2\r\n$3\r\nGE", &limits()).expect("fine");
    assert_eq!(scanner.arg(0), None);
    scanner.scan(b"T", &limits()).expect("fine");
    assert_eq!(scanner.arg(0), Some(8..11));
    assert_eq!(scanner.arg(1), None);
    assert_eq!(scanner.arg(usize::MAX), None);
}

#[test]
fn a_million_keys_fit() {
    let mut command = b"*2000001\r\n$4\r\nMSET\r\n".to_vec();
    for _ in 0..2_000_000 {
        command.extend_from_slice(b"$1\r\nx\r\n");
    }
    assert_eq!(complete(&command, Kind::Multibulk).argc(), 2_000_001);
    assert_eq!(args(&command).len(), 2_000_001);
    assert_eq!(args(&command).count(), 2_000_001);
}

#[test]
fn the_scanner_is_small() {
    let size = size_of::<RequestScanner>();
    println!("RequestScanner: {size} bytes");
    assert!(size <= 96, "{size}");
}
