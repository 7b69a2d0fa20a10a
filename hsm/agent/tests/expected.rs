//! Keys that are expected of an agent before it is there.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// The agent that others run, with no process behind its socket yet.
fn absent(folder: &Path) -> AgentConfig {
    let source = AgentSource::Connect { path: folder.join("agent"), user: os::user() };
    let mut config = config("soft");
    config.source = source;
    config
}

fn listening(folder: &Path) -> std::process::Child {
    let mode = format!("listen:{}", folder.join("agent").display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments("as_agent")).env(MODE, mode).spawn().unwrap()
}

#[test]
fn a_key_is_expected_of_an_agent_that_comes_later_and_is_reported_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let public = {
        let (agent, _submitter) = start("soft:");
        let key = open(agent.client());
        agent.client().public_key(key).unwrap()
    };
    let other = {
        let (agent, _submitter) = start("soft:");
        let second = agent.client().open_key(&label("sign-2"), Usage::Sign, patience()).unwrap();
        agent.client().public_key(second).unwrap()
    };
    let (agent, _submitter) = Agent::start(absent(folder.path())).unwrap();
    let client = agent.client();
    let expect =
        |name: &str, key: &_| client.expect_key(&label(name), Usage::Sign, key, patience());
    let key = expect("sign-1", &public).unwrap();
    assert_eq!(expect("sign-1", &public).unwrap(), key);
    let refused = expect("sign-1", &other).unwrap_err();
    assert!(matches!(refused, Error::CardChanged { .. }), "{refused}");
    let refused = sign(client, key, &digest("away", 1)).unwrap_err();
    assert!(refused.class() == ErrorClass::TokenLost, "{refused}");
    until("a reason", || client.status().last_failure.is_some());
    let reason = client.status().last_failure.unwrap();
    assert!(reason.contains("cannot be reached"), "{reason}");

    let mut child = listening(folder.path());
    sign_again(client, key);
    let second = expect("sign-2", &other).unwrap();
    sign_again(client, second);
    let third = expect("sign-3", &public).unwrap_err();
    assert!(third.class() == ErrorClass::Permanent, "{third}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = listening(folder.path());
    until("another start", || client.status().starts_count > 1);
    sign_again(client, key);
    drop(agent);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_agent_whose_key_is_another_than_expected_never_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _submitter) = Agent::start(absent(folder.path())).unwrap();
    let client = agent.client();
    let other = {
        let (agent, _submitter) = start("soft:");
        let second = agent.client().open_key(&label("sign-2"), Usage::Sign, patience()).unwrap();
        agent.client().public_key(second).unwrap()
    };
    client.expect_key(&label("sign-1"), Usage::Sign, &other, patience()).unwrap();
    let mut child = listening(folder.path());
    let refused = client.wait_ready(patience()).unwrap_err();
    assert!(matches!(refused, Error::CardChanged { .. }), "{refused}");
    assert_eq!(client.status().state, AgentState::Refused);
    drop(agent);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_token_that_is_away_when_its_agent_comes_again_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, _submitter) = start(&format!("lost:{}", folder.path().join("starts").display()));
    let client = agent.client();
    let key = open(client);
    sign(client, key, &digest("DIE!", 0)).unwrap_err();
    until("it is back", || {
        let signed = sign(client, key, &digest("again", 1));
        // What may pass, all the time: a node that waits for its card must not stop.
        assert!(signed.as_ref().err().is_none_or(|error| error.class() == ErrorClass::TokenLost));
        signed.is_ok()
    });
    assert_eq!(client.status().starts_count, 4);
}
