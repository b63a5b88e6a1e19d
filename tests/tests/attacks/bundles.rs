//! Bundles that want to be more than files of their function.

use crate::stage::{can_run, stage};
use std::path::Path;
use std::process::Command;

/// Packs with Python's tar, which packs what it is told to.
fn pack(at: &Path, script: &str) {
    let program =
        format!("import io, sys, tarfile\nt = tarfile.open(sys.argv[1], 'w')\n{script}\nt.close()\n");
    let done = Command::new("python3").args(["-c", &program]).arg(at).status().expect("python3");
    assert!(done.success(), "{script}");
}

#[test]
fn a_bundle_that_leads_out_is_refused_and_nothing_is_written() {
    if !can_run("a_bundle_that_leads_out_is_refused") {
        return;
    }
    let stage = stage();
    let mut client = stage.client();
    let name = format!("escaped-{}", stage.mark);
    let file =
        |path: &str| format!("i = tarfile.TarInfo('{path}'); i.size = 4; t.addfile(i, io.BytesIO(b'evil'))");
    let link = |path: &str, to: &str, kind: &str| {
        format!("i = tarfile.TarInfo('{path}'); i.type = tarfile.{kind}; i.linkname = '{to}'; t.addfile(i)")
    };
    let bundles = [
        ("above", file(&format!("../../../../../../../../tmp/{name}"))),
        ("root", file(&format!("/tmp/{name}"))),
        ("inside", file(&format!("a/../../../{name}"))),
        ("link", format!("{}\n{}", link("out", "/tmp", "SYMTYPE"), file(&format!("out/{name}")))),
        ("far-link", format!("{}\n{}", link("out", "../../../../../../../tmp", "SYMTYPE"), file(&format!("out/{name}")))),
        ("hard-link", link("shadow", "/etc/shadow", "LNKTYPE")),
        ("device", "i = tarfile.TarInfo('mem'); i.type = tarfile.CHRTYPE; i.devmajor = 1; i.devminor = 1; t.addfile(i)".into()),
        ("pipe", "i = tarfile.TarInfo('p'); i.type = tarfile.FIFOTYPE; t.addfile(i)".into()),
        ("over", format!("{}\n{}", file("a"), file("a"))),
        ("through", format!("{}\n{}\n{}", link("d", "e", "SYMTYPE"), file("e/x"), file("d/y"))),
    ];
    for (what, script) in bundles {
        stage.neighbours_answer(&mut client, "before a bundle");
        let tar = stage.site.file(&format!("{what}.tar"), "");
        pack(Path::new(&tar), &script);
        let manifest = format!(
            "name = \"{what}\"\nruntime = \"process\"\nbundle = \"{what}.tar\"\ncommand = [\"sh\"]\n"
        );
        let path = stage.site.file(&format!("{what}.toml"), manifest);
        let ran = stage.site.run(&["deploy", &path]);
        assert_ne!(ran.code(), 0, "{what} was deployed: {ran}");
        assert!(ran.stderr().contains("hint: "), "{what}: {ran}");
        eprintln!("bundle {what}: {}", ran.stderr().lines().next().unwrap_or_default());
        for place in [Path::new("/tmp"), Path::new("/"), &stage.site.data(), &stage.site.data().join("cache")]
        {
            assert!(!place.join(&name).exists(), "{what} wrote to {}", place.display());
        }
        stage.neighbours_answer(&mut client, "after a bundle");
    }
}
