//! The example serve: requests do not know of each other.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The example, which cargo has built next to this test.
fn example() -> Result<Command> {
    let mut path: PathBuf = std::env::current_exe()?;
    // target/PROFILE/deps/this-test
    path.pop();
    path.pop();
    Ok(Command::new(path.join("examples/serve")))
}

struct Serving {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Serving {
    fn with(arguments: &[&str]) -> Result<Self> {
        let mut command = example()?;
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.trim().strip_prefix("serving on http://").ok_or(line.clone())?;
        Ok(Self { child, output, address: address.to_owned() })
    }

    /// Status and text of the answer.
    fn ask(&self, path: &str, body: &str) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n")?;
        write!(stream, "Content-Length: {length}\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, text) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).ok_or("no status")?;
        Ok((status.to_owned(), text.to_owned()))
    }

    /// The example has ended by itself: what it said at last.
    fn end(mut self) -> Result<String> {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        assert!(self.child.wait()?.success());
        Ok(rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Only after a failure there is something left to be stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn no_request_sees_what_another_has_left() -> Result {
    let directory = std::env::temp_dir().join(format!("vmm-serve-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("warm.vmm");
    let keep = file.to_str().ok_or("not UTF-8")?;
    // The second time from the file.
    for _ in 0..2 {
        let serving = Serving::with(&["--sandboxes=1", "--requests=8", "--keep", keep])?;
        let nothing = "request 1, before it somebody said ''\n";
        for body in ["a secret", "another", ""] {
            assert_eq!(serving.ask("/", body)?, ("200".into(), nothing.into()));
        }
        assert_eq!(serving.ask("/prime/999983", "")?.1, "999983 is prime\n");
        let (status, said) = serving.ask("/crash", "")?;
        assert_eq!(status, "500");
        assert!(said.contains("write to memory that may not be"), "{said}");
        assert_eq!(serving.ask("/prime/999981", "")?.1, "999981 is not prime\n");
        let long = "x".repeat(100_000);
        assert_eq!(serving.ask("/", &long)?.0, "200");
        assert_eq!(serving.ask("/", "")?.1, nothing);
        let said = serving.end()?;
        assert!(said.starts_with("1 forks, "), "{said}");
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

#[test]
fn it_explains_itself_and_refuses_what_it_does_not_know() -> Result {
    let help = example()?.arg("--help").output()?;
    assert!(help.status.success() && String::from_utf8(help.stdout)?.contains("curl"));
    let unknown = example()?.arg("--frobnicate=1").output()?;
    assert!(!unknown.status.success());
    assert!(String::from_utf8(unknown.stderr)?.contains("--frobnicate"));
    Ok(())
}
