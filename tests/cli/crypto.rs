//! `hufu crypto` and `HUFU_KERNELS`, as a user types them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hufu_node::kernels;
use serde_json::{Value, json};

use super::{code, folder, hufu, json as run_json, new_chain, stderr, stdout};

/// The signature example of GB/T 32918.5-2017 A.2.
const PX: &str = "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020";
const PY: &str = "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13";
const E: &str = "F0B43E94BA45ACCAACE692ED534382EB17E6AB5A19CE7B31F4486FDFC0D28640";
const R: &str = "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3";
const S: &str = "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA";

/// Runs a command with something on its standard input.
fn feed(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder).args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that refuses its arguments reads nothing.
    let writer = std::thread::Builder::new().spawn(move || drop(stdin.write_all(&input))).unwrap();
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn good_line() -> Value {
    json!({ "px": PX, "py": PY, "e": E, "r": R, "s": S })
}

/// The good line with one field changed, or taken out by null.
fn changed(field: &str, value: Value) -> String {
    let mut line = good_line();
    let fields = line.as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), value);
    }
    line.to_string()
}

fn answers(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (answer, number) in answers.iter().zip(1_u64..) {
        assert_eq!(answer["line"], number, "in order");
    }
    answers
}

#[test]
fn json_lines_are_verified_in_order_and_a_bad_one_spoils_nothing() {
    let folder = folder();
    let message =
        json!({ "px": PX, "py": PY, "msg": "6d65737361676520646967657374", "r": R, "s": S });
    let der = format!("3046022100{R}022100{S}");
    let der = json!({ "px": PX, "py": PY, "e": E, "sig": der });
    let (valid, invalid) = (true, false);
    let lines: [(String, bool, &str); 14] = [
        (good_line().to_string(), valid, ""),
        (changed("s", R.into()), invalid, ""),
        (message.to_string(), valid, ""),
        (der.to_string(), valid, ""),
        (changed("e", "00".repeat(32).into()), invalid, ""),
        (changed("py", Value::Null), invalid, "py: missing"),
        (changed("r", R[1..].into()), invalid, "r: 63 hexadecimal digits, an odd number"),
        (changed("r", R[2..].into()), invalid, "r: 31 bytes, expected 32"),
        (changed("s", format!("{S}00").into()), invalid, "s: 33 bytes, expected 32"),
        (changed("e", "no".into()), invalid, "e: character 1 is no hexadecimal digit"),
        (changed("px", PY.into()), invalid, "px, py: not a point of the curve"),
        ("{\"px\":".to_owned(), invalid, "not a JSON object"),
        (String::new(), invalid, "not a JSON object"),
        (good_line().to_string(), valid, ""),
    ];
    let text: Vec<&str> = lines.iter().map(|(line, ..)| line.as_str()).collect();
    fs::write(folder.path().join("lines"), text.join("\n")).unwrap();
    let verify = ["crypto", "sm2-verify", "--jsonl"];
    let from_file = hufu(folder.path(), &[&verify[..], &["lines"]].concat());
    let from_input =
        feed(folder.path(), &[&verify[..], &["-"]].concat(), text.join("\n").as_bytes());
    for output in [from_file, from_input] {
        assert_eq!(code(&output), 1);
        let answers = answers(&output);
        assert_eq!(answers.len(), lines.len());
        for (answer, (line, is_valid, fault)) in answers.iter().zip(&lines) {
            assert_eq!(answer["valid"], *is_valid, "{line}: {answer}");
            let error = answer["error"].as_str().unwrap_or_default();
            assert!(error.starts_with(fault) && error.is_empty() == fault.is_empty(), "{answer}");
        }
        let summary = stderr(&output);
        assert!(summary.contains("14 lines: 4 valid, 2 invalid, 8 faulty"), "{summary}");
    }
    let good = format!("{}\n", good_line()).repeat(3);
    let output = feed(folder.path(), &[&verify[..], &["-"]].concat(), good.as_bytes());
    assert_eq!((code(&output), answers(&output).len()), (0, 3));
    let nothing = feed(folder.path(), &[&verify[..], &["-"]].concat(), b"");
    assert_eq!((code(&nothing), stdout(&nothing).as_str()), (0, ""));
    assert_eq!(code(&hufu(folder.path(), &[&verify[..], &["none"]].concat())), 1);
    assert_eq!(code(&hufu(folder.path(), &["crypto", "sm2-verify"])), 2);
}

/// More lines than a batch has, each tenth bad, on every back end.
#[test]
fn every_back_end_gives_every_line_its_verdict() {
    let folder = folder();
    let bad = changed("r", S.into());
    let good = good_line().to_string();
    let lines: Vec<&str> =
        (0..5_000).map(|number| if number % 10 == 3 { bad.as_str() } else { &good }).collect();
    fs::write(folder.path().join("lines"), lines.join("\n")).unwrap();
    for backend in kernels::available() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(folder.path()).env(kernels::VARIABLE, backend.name());
        let output = command.args(["crypto", "sm2-verify", "--jsonl", "lines"]).output().unwrap();
        assert_eq!(code(&output), 1, "{}", stderr(&output));
        for (answer, line) in answers(&output).iter().zip(&lines) {
            assert_eq!(answer["valid"], *line == good, "{}: {answer}", backend.name());
        }
        assert!(stderr(&output).contains("5000 lines: 4500 valid, 500 invalid, 0 faulty"));
    }
}

/// Whoever writes a line and waits for its answer is not kept waiting for others.
#[test]
fn an_answer_does_not_wait_for_more_lines() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder.path()).args(["crypto", "sm2-verify", "--jsonl", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        writeln!(stdin, "{}", good_line()).unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!((&answer["line"], &answer["valid"]), (&json!(number), &json!(true)));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Whether the first thread of a process waits for something.
fn sleeps(process: u32) -> bool {
    let facts = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The state stands behind the name, which is in brackets.
    facts.rsplit(')').next().unwrap().trim_start().starts_with('S')
}

/// Ctrl-C, or a kill, comes while the answers back up in a pipe that nobody empties: those that
/// came are whole, and the process ends by the signal, which shells report as 130.
#[test]
fn a_stream_that_is_interrupted_ends_with_a_whole_answer() {
    let folder = folder();
    let lines = folder.path().join("lines");
    fs::write(&lines, format!("{}\n", good_line()).repeat(9_000)).unwrap();
    for (signal, number) in [("INT", 2), ("TERM", 15), ("KILL", 9)] {
        // Whoever runs the tests in the background may have its children ignore Ctrl-C.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_hufu")]);
        command.args(["crypto", "sm2-verify", "--jsonl", "-"]);
        command.stdin(fs::File::open(&lines).unwrap());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut answers = child.stdout.take().unwrap();
        // There are answers for more than this and all that a pipe holds, so that the process
        // cannot but wait for the pipe.
        let mut text = vec![0; 30_000];
        answers.read_exact(&mut text).unwrap();
        while !sleeps(child.id()) {
            std::thread::yield_now();
        }
        let process = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &process]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(number), "{signal}");
        // Only now: whoever makes room lets the process write on.
        answers.read_to_end(&mut text).unwrap();
        assert_eq!(stderr(&output), "", "{signal}");
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with('\n'), "{signal}: ends with {:?}", text.lines().last());
        for (line, number) in text.lines().zip(1_u64..) {
            let answer: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&answer["line"], &answer["valid"]), (&json!(number), &json!(true)));
        }
    }
}

/// Of a socket for messages each read gives what one write gave.
#[test]
fn a_line_is_written_at_once_however_long() {
    let folder = folder();
    fs::write(folder.path().join("lines"), format!("{}\n", good_line()).repeat(300)).unwrap();
    let commands: [(&[&str], usize); 2] = [
        (&["config", "schema", "--json"], 8_192),
        (&["crypto", "sm2-verify", "--jsonl", "lines"], 4_000),
    ];
    for (arguments, longer_than) in commands {
        let (reader, writer) = UnixDatagram::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(folder.path()).args(arguments).stdin(Stdio::null());
        let mut child =
            command.stdout(OwnedFd::from(writer)).stderr(Stdio::null()).spawn().unwrap();
        drop(command);
        assert!(child.wait().unwrap().success());
        reader.set_nonblocking(true).unwrap();
        let (mut buffer, mut longest) = (vec![0; 1 << 20], 0);
        while let Ok(size) = reader.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..size]).unwrap();
            if text.is_empty() {
                break;
            }
            assert!(text.starts_with('{') && text.ends_with('\n'), "{arguments:?}: {text}");
            longest = longest.max(size);
        }
        assert!(longest > longer_than, "{arguments:?}: {longest} bytes at most");
    }
}

/// `| head -1`: who reads no more is told no more, and the exit code is still that of all lines.
#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let folder = folder();
    let good = format!("{}\n", good_line()).repeat(6_000);
    for (last, exit) in [(good_line().to_string(), 0), (changed("s", R.into()), 1)] {
        fs::write(folder.path().join("lines"), format!("{good}{last}\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(folder.path()).args(["crypto", "sm2-verify", "--jsonl", "lines"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert_eq!(first, "{\"line\":1,\"valid\":true,\"error\":null}\n");
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), exit, "{}", stderr(&output));
        let sum = format!("6001 lines: {} valid, {exit} invalid, 0 faulty\n", 6_001 - exit);
        let text = stderr(&output);
        assert!(text.starts_with(&sum) && !text.contains("panicked"), "{text}");
    }
}

/// Where the host writes cores, none is written of a process that has read a private key.
#[test]
fn a_command_that_holds_a_key_leaves_no_core() {
    let folder = folder();
    new_pair(folder.path());
    let sign = format!(
        "ulimit -c $(ulimit -H -c); exec {} crypto sm2-sign --key key.pem -",
        env!("CARGO_BIN_EXE_hufu")
    );
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).args(["-c", &sign]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // More than the pipe and one read hold: the key was read before any of it.
    child.stdin.as_mut().unwrap().write_all(&[7; 4 << 20]).unwrap();
    let process = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "ABRT", &process]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

/// The other commands that print, with nobody there from the beginning.
#[test]
fn nothing_panics_where_nobody_reads() {
    let folder = folder();
    let path = folder.path();
    secret(path, "key", "0123456789abcdeffedcba9876543210\n");
    fs::write(path.join("text"), "text").unwrap();
    let many = ["text"; 300];
    let sm4 = ["crypto", "sm4", "--mode", "ecb", "--encrypt", "--key-file", "key", "--out", "-"];
    let commands: [(Vec<&str>, i32); 6] = [
        ([&["crypto", "sm3"], &many[..]].concat(), 0),
        (vec!["crypto", "sm3", "text", "none"], 1),
        ([&sm4[..], &["text"]].concat(), 0),
        (vec!["crypto", "sm2-keygen", "--out", "new.pem"], 0),
        (vec!["crypto", "selftest"], 0),
        (vec!["crypto", "selftest", "--json"], 0),
    ];
    for (arguments, exit) in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(path).args(&arguments).stdin(Stdio::null()).stdout(writer);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
    assert!(path.join("new.pem").exists());
}

#[test]
fn lines_of_any_length_take_bounded_memory() {
    let folder = folder();
    let mut input = good_line().to_string().into_bytes();
    input.push(b'\n');
    input.extend(vec![b'x'; 20 << 20]);
    input.extend(b"\n");
    input.extend(good_line().to_string().as_bytes());
    let output = feed(folder.path(), &["crypto", "sm2-verify", "--jsonl", "-"], &input);
    let answers = answers(&output);
    assert_eq!(answers.len(), 3);
    assert_eq!([&answers[0]["valid"], &answers[2]["valid"]], [true, true]);
    assert!(answers[1]["error"].as_str().unwrap().contains("line has more than"), "{}", answers[1]);
}

fn new_pair(folder: &Path) {
    let arguments =
        ["crypto", "sm2-keygen", "--out", "key.pem", "--public-out", "public.pem", "--json"];
    run_json(folder, &arguments);
}

#[test]
fn a_key_signs_and_its_public_key_verifies() {
    let folder = folder();
    let path = folder.path();
    new_pair(path);
    for name in ["key.pem", "public.pem"] {
        let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = fs::read(path.join("key.pem")).unwrap();
    let again = hufu(path, &["crypto", "sm2-keygen", "--out", "key.pem"]);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("exists already") && stderr(&again).contains("--force"));
    assert_eq!(fs::read(path.join("key.pem")).unwrap(), before);
    let half = hufu(path, &["crypto", "sm2-keygen", "--out", "new.pem", "--public-out", "key.pem"]);
    assert_eq!(code(&half), 1);
    assert!(!path.join("new.pem").exists(), "no key is made when half of it has no place");

    fs::write(path.join("text"), "pay 5").unwrap();
    let sign = ["crypto", "sm2-sign", "--key", "key.pem", "--out", "text.sig", "text", "--json"];
    let signed = run_json(path, &sign);
    assert_eq!(fs::read(path.join("text.sig")).unwrap()[0], 0x30);
    let verify = ["crypto", "sm2-verify", "--public-key", "public.pem", "--signature", "text.sig"];
    let good = hufu(path, &[&verify[..], &["text"]].concat());
    assert_eq!((code(&good), stdout(&good).trim()), (0, "valid"), "{}", stderr(&good));
    let fed = feed(path, &[&verify[..], &["-"]].concat(), b"pay 5");
    assert_eq!(code(&fed), 0, "{}", stderr(&fed));
    let other = feed(path, &[&verify[..], &["-"]].concat(), b"pay 6");
    assert_eq!((code(&other), stdout(&other).trim()), (1, "NOT VALID"));
    let named = hufu(path, &[&verify[..], &["--id", "ALICE", "text"]].concat());
    assert_eq!(code(&named), 1, "another identity");

    // What sm2-sign prints is what sm2-verify reads.
    let key = signed["public_key"].as_str().unwrap();
    let line =
        json!({ "px": key[..64], "py": key[64..], "msg": "7061792035", "sig": signed["sig"] });
    let output = feed(path, &["crypto", "sm2-verify", "--jsonl", "-"], line.to_string().as_bytes());
    assert_eq!(code(&output), 0, "{}", stdout(&output));

    fs::write(path.join("text.sig"), [0x30, 6, 2, 1, 1, 2, 1, 0x80]).unwrap();
    let broken = hufu(path, &[&verify[..], &["text"]].concat());
    assert_eq!(code(&broken), 1);
    assert!(stderr(&broken).contains("s: integer is negative"), "{}", stderr(&broken));
    let swapped =
        ["crypto", "sm2-verify", "--public-key", "key.pem", "--signature", "text.sig", "text"];
    assert!(stderr(&hufu(path, &swapped)).contains("public key"), "a private key is no public key");
    fs::set_permissions(path.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = hufu(path, &["crypto", "sm2-sign", "--key", "key.pem", "text"]);
    assert!(stderr(&exposed).contains("chmod 600"), "{}", stderr(&exposed));
}

#[test]
fn what_is_encrypted_to_a_key_only_that_key_reads() {
    let folder = folder();
    let path = folder.path();
    new_pair(path);
    run_json(path, &["crypto", "sm2-keygen", "--out", "other.pem", "--json"]);
    fs::write(path.join("text"), "attack at dawn").unwrap();
    for raw in [&[][..], &["--raw"]] {
        let encrypt = ["crypto", "sm2-encrypt", "--public-key", "public.pem", "text", "--force"];
        let encrypted = hufu(path, &[&encrypt[..], &["--out", "sealed"], raw].concat());
        assert_eq!(code(&encrypted), 0, "{}", stderr(&encrypted));
        let decrypt = ["crypto", "sm2-decrypt", "--out", "-", "--key"];
        let good = hufu(path, &[&decrypt[..], &["key.pem", "sealed"], raw].concat());
        assert_eq!((code(&good), stdout(&good).as_str()), (0, "attack at dawn"));
        let other = hufu(path, &[&decrypt[..], &["other.pem", "sealed"], raw].concat());
        assert_eq!((code(&other), stdout(&other).as_str()), (1, ""));
        assert!(stderr(&other).contains("rejected"), "{}", stderr(&other));
        let mut bytes = fs::read(path.join("sealed")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path.join("changed"), bytes).unwrap();
        let out = [&["crypto", "sm2-decrypt", "--key", "key.pem", "changed"], raw].concat();
        assert_eq!(code(&hufu(path, &[&out[..], &["--out", "opened"]].concat())), 1);
        assert!(!path.join("opened").exists(), "nothing is written of what was changed");
    }
    let odd = hufu(path, &["crypto", "sm2-decrypt", "--key", "key.pem", "--out", "-", "sealed"]);
    assert!(stderr(&odd).contains("add --raw"), "{}", stderr(&odd));
    fs::write(path.join("empty"), "").unwrap();
    let empty = ["crypto", "sm2-encrypt", "--public-key", "public.pem", "--out", "x", "empty"];
    assert_eq!(code(&hufu(path, &empty)), 1);
    assert!(!path.join("x").exists());
}

#[test]
fn digests_are_printed_and_checked_as_sha256sum_does() {
    let folder = folder();
    let path = folder.path();
    let abc = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";
    fs::write(path.join("abc"), "abc").unwrap();
    fs::write(path.join("two\nlines"), "abc").unwrap();
    let printed = hufu(path, &["crypto", "sm3", "abc", "two\nlines"]);
    assert_eq!(stdout(&printed), format!("{abc}  abc\n\\{abc}  two\\nlines\n"));
    let fed = feed(path, &["crypto", "sm3"], b"abc");
    assert_eq!(stdout(&fed), format!("{abc}  -\n"));
    let missing = hufu(path, &["crypto", "sm3", "none", "abc"]);
    assert_eq!((code(&missing), stdout(&missing)), (1, format!("{abc}  abc\n")));
    assert!(stderr(&missing).contains("none"), "{}", stderr(&missing));

    fs::write(path.join("list"), stdout(&printed)).unwrap();
    let checked = hufu(path, &["crypto", "sm3", "-c", "list"]);
    assert_eq!((code(&checked), stdout(&checked).as_str()), (0, "abc: OK\ntwo\\nlines: OK\n"));
    fs::write(path.join("abc"), "abd").unwrap();
    let checked = hufu(path, &["crypto", "sm3", "-c", "--quiet", "list"]);
    assert_eq!((code(&checked), stdout(&checked).as_str()), (1, "abc: FAILED\n"));
    fs::write(path.join("list"), "no list\n").unwrap();
    assert_eq!(code(&hufu(path, &["crypto", "sm3", "--check", "list"])), 1);
    let value = run_json(path, &["crypto", "sm3", "two\nlines", "--json"]);
    assert_eq!((value["sm3"].as_str(), value["file"].as_str()), (Some(abc), Some("two\nlines")));
}

/// Writes a file of mode 0600.
fn secret(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn every_mode_of_sm4_goes_round_and_bad_settings_are_named() {
    let folder = folder();
    let path = folder.path();
    secret(path, "key", "0123456789abcdeffedcba9876543210\n");
    secret(path, "block", "block");
    fs::write(path.join("text"), "fifteen letters").unwrap();
    let block = "000102030405060708090a0b0c0d0e0f";
    let nonce = "000102030405060708090a0b";
    let modes: [(&str, &[&str], usize); 5] = [
        ("ecb", &[], 16),
        ("cbc", &["--nonce", block], 16),
        ("ctr", &["--iv", block], 15),
        ("gcm", &["--nonce", nonce, "--aad", "00ff"], 31),
        ("ccm", &["--nonce", nonce, "--tag-size", "8"], 23),
    ];
    for (mode, options, size) in modes {
        let sm4 = ["crypto", "sm4", "--mode", mode, "--key-file", "key", "--force"];
        let to = |step: &'static str, from: &'static str, out: &'static str| {
            let mut arguments = sm4.to_vec();
            arguments.extend(options);
            arguments.extend([step, "--out", out, from]);
            hufu(path, &arguments)
        };
        let made = to("--encrypt", "text", "sealed");
        assert_eq!(code(&made), 0, "{mode}: {}", stderr(&made));
        assert_eq!(fs::read(path.join("sealed")).unwrap().len(), size, "{mode}");
        let back = to("--decrypt", "sealed", "-");
        assert_eq!((code(&back), stdout(&back).as_str()), (0, "fifteen letters"), "{mode}");
        if mode == "gcm" || mode == "ccm" {
            let mut bytes = fs::read(path.join("sealed")).unwrap();
            bytes[0] ^= 1;
            fs::write(path.join("changed"), bytes).unwrap();
            let refused = to("--decrypt", "changed", "-");
            assert_eq!((code(&refused), stdout(&refused).as_str()), (1, ""), "{mode}");
            assert!(stderr(&refused).contains("rejected"), "{}", stderr(&refused));
        }
    }
    let refusals: [(&[&str], i32, &str); 12] = [
        (&["--mode", "ofb", "--key-file", "key"], 2, "ecb, cbc, ctr, gcm, ccm"),
        (&["--mode", "ecb", "--key", "00"], 2, "every user"),
        (&["--mode", "ecb"], 2, "--key-file"),
        (&["--mode", "ecb", "--key-file", "block"], 1, "key: character 2"),
        (&["--mode", "ecb", "--key-file", "text"], 1, "chmod 600"),
        (&["--mode", "cbc", "--key-file", "key"], 2, "--nonce: cbc needs one"),
        (&["--mode", "cbc", "--key-file", "key", "--nonce", nonce], 2, "12 bytes, cbc takes 16"),
        (&["--mode", "gcm", "--key-file", "key", "--nonce", "0"], 2, "odd number"),
        (&["--mode", "ccm", "--key-file", "key", "--nonce", block], 2, "ccm takes 7 to 13"),
        (&["--mode", "gcm", "--key-file", "key", "--nonce", nonce, "--tag-size", "8"], 2, "tag"),
        (&["--mode", "ctr", "--key-file", "key", "--nonce", block, "--aad", "00"], 2, "proves"),
        (&["--mode", "ecb", "--key-file", "key", "--no-padding"], 1, "--no-padding"),
    ];
    for (options, exit, what) in refusals {
        let arguments =
            [&["crypto", "sm4", "--encrypt", "--out", "refused", "text"], options].concat();
        let output = hufu(path, &arguments);
        assert_eq!(code(&output), exit, "{options:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(what), "{options:?}: {}", stderr(&output));
        assert!(!path.join("refused").exists(), "{options:?}");
    }
    secret(path, "short", "0123456789abcdeffedcba98765432");
    let short =
        ["crypto", "sm4", "--mode", "ecb", "--encrypt", "--key-file", "short", "--out", "-"];
    let output = hufu(path, &[&short[..], &["text"]].concat());
    assert!(stderr(&output).contains("key: 15 bytes, expected 16"), "{}", stderr(&output));
}

#[test]
fn the_self_test_passes_on_every_back_end() {
    let folder = folder();
    let value = run_json(folder.path(), &["crypto", "selftest", "--json"]);
    assert_eq!(value["ok"], true, "{value}");
    assert_eq!(value["backends"].as_array().unwrap().len(), kernels::available().len());
}

#[test]
fn a_back_end_that_is_not_there_stops_every_command() {
    let folder = folder();
    new_chain(folder.path());
    let configuration = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\ngenesis = \"genesis.toml\"\n\
        key = \"vote.pem\"\n";
    fs::write(folder.path().join("hufu.toml"), configuration).unwrap();
    let forced = |backend: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(folder.path()).env(kernels::VARIABLE, backend);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    let commands: [(&[&str], i32); 4] = [
        (&["crypto", "sm3", "hufu.toml"], 2),
        (&["keys", "show", "vote.pem"], 2),
        (&["node", "check"], 78),
        (&["node", "run"], 78),
    ];
    for (arguments, exit) in commands {
        let output = forced("sse9", arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("HUFU_KERNELS=sse9") && text.contains("portable"), "{text}");
    }
    assert!(!folder.path().join("data").exists(), "the node did not begin");
    let mut digests = Vec::new();
    for backend in kernels::available() {
        let output = forced(backend.name(), &["crypto", "sm3", "hufu.toml"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        digests.push(stdout(&output));
        let value = stdout(&forced(backend.name(), &["crypto", "selftest", "--json"]));
        let value: Value = serde_json::from_str(&value).unwrap();
        assert_eq!(value["node_uses"], backend.name());
        assert_eq!(value["backends"].as_array().unwrap().len(), 1);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}
