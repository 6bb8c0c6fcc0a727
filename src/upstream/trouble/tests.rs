use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn machine() -> (Machine, Instant) {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5), 7);
    (Machine::new(backoff), Instant::now())
}

fn cause(machine: &Machine) -> Option<ConnectFailure> {
    machine.state().trouble().map(|trouble| trouble.cause)
}

fn entered(news: Option<News>) -> bool {
    matches!(news, Some(News::Entered(_)))
}

fn role(role: &[u8]) -> Value {
    Value::Map(vec![(
        Value::Bulk(b"role".to_vec()),
        Value::Bulk(role.to_vec()),
    )])
}

#[test]
fn each_cause_is_told_once_and_the_end_once() {
    let (mut m, t) = machine();
    assert_eq!(m.handle_open(None, t), Some(News::Reached));
    assert!(entered(m.handle_failure(
        ConnectFailure::Tcp,
        "no",
        false,
        t
    )));
    for n in 0..100 {
        let other = if n % 2 == 0 {
            ConnectFailure::Dns
        } else {
            ConnectFailure::Tcp
        };
        let news = m.handle_failure(other, &format!("no {n}"), false, t);
        assert_eq!(entered(news), n == 0);
    }
    assert_eq!(m.state().trouble().map(|t| &*t.message), Some("no 99"));
    let lasted = 3 * SECOND;
    let left = m.handle_open(None, t + lasted);
    assert_eq!(
        left,
        Some(News::Left {
            cause: ConnectFailure::Tcp,
            lasted
        })
    );
    assert_eq!(m.handle_open(None, t + lasted), None);
    assert_eq!(m.take_down(), lasted);
    assert!(entered(m.handle_failure(
        ConnectFailure::Tcp,
        "no",
        false,
        t + lasted
    )));
}

#[test]
fn a_connection_limit_that_comes_and_goes_is_told_once_a_minute() {
    let (mut m, t) = machine();
    let is_told = |m: &mut Machine, at| {
        let full = m.handle_failure(ConnectFailure::MaxClients, "full", true, at);
        assert!(matches!(m.state(), UpstreamState::Strained(_)));
        let again = m.handle_failure(ConnectFailure::MaxClients, "full", true, at + SECOND);
        assert_eq!(again, None);
        let end = m.handle_open(None, at + 2 * SECOND);
        assert_eq!(end.is_some(), full.is_some(), "what was told has an end");
        entered(full)
    };
    m.handle_open(None, t);
    assert!(is_told(&mut m, t));
    assert!(!is_told(&mut m, t + MINUTE / 2));
    assert!(is_told(&mut m, t + MINUTE));
    // Where nothing works any more, that is news; so is another cause.
    let (soon, full) = (t + MINUTE + 3 * SECOND, ConnectFailure::MaxClients);
    assert!(entered(m.handle_failure(full, "full", false, soon)));
    m.handle_open(None, soon);
    assert!(entered(m.handle_failure(
        ConnectFailure::Auth,
        "no",
        true,
        soon
    )));
}

#[test]
fn a_failure_beside_connections_that_work_is_no_outage() {
    let (mut m, t) = machine();
    m.handle_open(None, t);
    assert!(entered(m.handle_failure(
        ConnectFailure::Auth,
        "WRONGPASS",
        true,
        t
    )));
    assert!(matches!(m.state(), UpstreamState::Strained(_)) && !m.state().denies_reads());
    assert!(entered(m.handle_failure(
        ConnectFailure::Auth,
        "WRONGPASS",
        false,
        t + SECOND
    )));
    assert!(m.state().denies_reads());
    assert_eq!(
        m.handle_open(None, t + 2 * SECOND),
        Some(News::Left {
            cause: ConnectFailure::Auth,
            lasted: 2 * SECOND
        })
    );
    assert_eq!(m.take_down(), SECOND, "only the time without a connection");
}

#[test]
fn a_loading_server_is_asked_once_a_second_and_says_when_it_is_done() {
    let (mut m, t) = machine();
    m.handle_open(None, t);
    assert!(entered(m.handle_complaint(
        ConnectFailure::Loading,
        "LOADING",
        t
    )));
    assert!(m.state().denies_reads());
    assert_eq!(m.poll_question(t), (None, Some(false)));
    assert_eq!(m.poll_question(t), (None, None));
    let loading = Value::Error(b"LOADING Redis is loading the dataset in memory".to_vec());
    assert_eq!(m.handle_answer(&loading, t), None);
    assert_eq!(m.poll_question(t + SECOND), (None, Some(false)));
    let pong = Value::Simple(b"PONG".to_vec());
    assert!(matches!(
        m.handle_answer(&pong, t + SECOND),
        Some(News::Left { .. })
    ));
    assert_eq!(m.handle_answer(&pong, t + SECOND), None);
    assert_eq!(m.poll_question(t + MINUTE), (None, None));
}

#[test]
fn a_replica_is_one_until_it_says_that_it_is_a_master() {
    let (mut m, t) = machine();
    m.handle_open(None, t);
    assert!(entered(m.handle_complaint(
        ConnectFailure::ReadOnly,
        "READONLY",
        t
    )));
    assert!(!m.state().denies_reads());
    assert_eq!(
        m.handle_open(None, t),
        None,
        "that it can be reached proves nothing"
    );
    assert_eq!(m.poll_question(t), (None, Some(true)));
    assert_eq!(m.handle_answer(&Value::Simple(b"PONG".to_vec()), t), None);
    assert_eq!(m.handle_answer(&role(b"replica"), t), None);
    assert_eq!(cause(&m), Some(ConnectFailure::ReadOnly));
    assert!(m.handle_answer(&role(b"master"), t).is_some());
    assert_eq!(cause(&m), None);
}

#[test]
fn what_nobody_sees_again_is_forgotten() {
    let (mut m, t) = machine();
    m.handle_complaint(ConnectFailure::Cluster, "MOVED 1 a:1", t);
    assert_eq!(m.poll_question(t), (None, None), "there is nothing to ask");
    m.handle_complaint(ConnectFailure::Cluster, "MOVED 1 a:1", t + MINUTE / 2);
    assert_eq!(m.poll_question(t + MINUTE), (None, None));
    let (news, question) = m.poll_question(t + 2 * MINUTE);
    assert!(matches!(news, Some(News::Left { .. })) && question.is_none());
}

#[test]
fn a_stall_ends_with_whatever_comes() {
    let (mut m, t) = machine();
    m.handle_open(None, t);
    assert!(entered(m.handle_stall("nothing", t)));
    assert_eq!(m.handle_stall("nothing", t), None);
    assert!(m.state().denies_reads());
    assert!(m.handle_heard(t).is_some());
    m.handle_failure(ConnectFailure::Timeout, "nothing", false, t);
    assert_eq!(
        m.handle_heard(t),
        None,
        "other causes have ends of their own"
    );
}

#[test]
fn connections_are_opened_anew_at_a_pace_that_slows_down() {
    let (mut m, t) = machine();
    assert!(m.poll_reopen(t));
    let (mut now, mut early, mut late) = (t, 0, 0);
    while now < t + 60 * MINUTE {
        let reopens = u32::from(m.poll_reopen(now));
        if now < t + MINUTE {
            early += reopens
        } else {
            late += reopens
        }
        now += Duration::from_millis(10);
    }
    assert!((12..=120).contains(&early), "{early} in the first minute");
    assert!(late <= 2 * 59 + 1, "{late} in 59 minutes");
    assert!(
        m.poll_reopen(now + 2 * MINUTE),
        "a new failover is a new beginning"
    );
}

#[test]
fn commands_wait_in_vain_only_while_the_outage_is_fresh_and_old_enough() {
    let (mut m, t) = machine();
    m.handle_failure(ConnectFailure::Timeout, "nothing", false, t);
    let limit = SECOND;
    assert!(!m.is_hopeless(limit, 9 * SECOND, t));
    assert!(m.is_hopeless(limit, 9 * SECOND, t + SECOND));
    assert!(
        !m.is_hopeless(limit, 9 * SECOND, t + MINUTE),
        "it was not looked at for long"
    );
    m.handle_failure(ConnectFailure::Timeout, "nothing", false, t + MINUTE);
    assert!(m.is_hopeless(limit, 9 * SECOND, t + MINUTE));
    m.handle_open(None, t + MINUTE);
    assert!(!m.is_hopeless(limit, 9 * SECOND, t + MINUTE));
}

#[test]
fn the_servers_words_are_told_from_a_scripts() {
    for (line, expected) in [
        (
            "-READONLY You can't write against a read only replica.\r\n",
            Some(ConnectFailure::ReadOnly),
        ),
        ("-READONLY of its own\r\n", None),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            Some(ConnectFailure::Loading),
        ),
        (
            "-LOADING Valkey is loading the dataset in memory\r\n",
            Some(ConnectFailure::Loading),
        ),
        ("-LOADING the truck\r\n", None),
        (
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
            Some(ConnectFailure::MasterDown),
        ),
        (
            "-MOVED 866 10.0.0.1:6379\r\n",
            Some(ConnectFailure::Cluster),
        ),
        ("-MOVED away\r\n", None),
        ("-ERR no\r\n", None),
        ("-\r\n", None),
        ("", None),
    ] {
        assert_eq!(complaint(line.as_bytes()), expected, "{line}");
    }
}
