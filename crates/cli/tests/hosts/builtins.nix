# What the builders that are part of Nix make. `url` is where a web server is, `secure` one with TLS.
{ tools, url, secure, hashes }:

let
  bin = builtins.path { path = tools; name = "tools"; };
  run = name: script: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "${bin}/bin/sh";
    PATH = "${bin}/bin";
    args = [ "-e" "-c" script ];
  };
  # as <nix/fetchurl.nix> has it, whose text differs from version to version
  fetch = more: derivation ({
    builder = "builtin:fetchurl";
    system = "builtin";
    name = baseNameOf more.url;
    outputHashMode = if more.executable or false || more.unpack or false then "recursive" else "flat";
    outputHashAlgo = "sha256";
    executable = false;
    unpack = false;
    preferLocalBuild = true;
    impureEnvVars = [ "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy" ];
    urls = [ more.url ];
  } // more);
  no = "0000000000000000000000000000000000000000000000000000";

  package = name: script: run name "mkdir -p $out/bin $out/share/doc; echo ${name} > $out/bin/${name}; echo ${name} > $out/share/doc/${name}; ${script}";
  a = package "a" "mkdir -p $out/lib/x $out/nix-support; ln -s lib $out/lib64; echo a > $out/lib/x/a; echo a > $out/common; echo > $out/nix-support/x; echo > $out/.hidden";
  b = package "b" "mkdir -p $out/lib64/x; echo b > $out/lib64/x/b; ln -s nowhere $out/dangling; mkdir -p $out/info; echo > $out/info/dir; echo > $out/info/b";
  c = package "c" "mkdir -p $out/nix-support; echo ${a} ${b} > $out/nix-support/propagated-user-env-packages; echo c > $out/common";
  same = package "same" "echo same > $out/bin/a";
  folder = run "folder" "mkdir -p $out/common; echo > $out/common/x";
  one = run "one" "echo one > $out";
  environment = derivations: derivation {
    name = "user-environment";
    system = "builtin";
    builder = "builtin:buildenv";
    manifest = builtins.toFile "manifest" "what is in it";
    inherit derivations;
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
  channel = channelName: src: derivation {
    builder = "builtin:unpack-channel";
    system = "builtin";
    name = "channel";
    inherit channelName src;
    preferLocalBuild = true;
  };
in {
  nixFetchurl = import <nix/fetchurl.nix> { url = "${url}/file"; inherit (hashes.file) sha256; };
  nixFetchurlExecutable = import <nix/fetchurl.nix> { url = "${url}/file"; sha256 = hashes.executable; executable = true; };
  flat = fetch { url = "${url}/file"; outputHash = hashes.file.sha256; };
  sha512 = fetch { url = "${url}/file"; outputHash = hashes.file.sha512; outputHashAlgo = "sha512"; };
  overTls = fetch { url = "${secure}/file"; outputHash = hashes.file.sha256; name = "over-tls"; };
  redirected = fetch { url = "${url}/moved"; outputHash = hashes.file.sha256; };
  halves = fetch { url = "${url}/halves"; outputHash = hashes.file.sha256; };
  secret = fetch { url = "${url}/secret"; outputHash = hashes.file.sha256; };
  mirrored = fetch { url = "${url}/gone"; outputHash = hashes.mirrored; };
  unpacked = fetch { url = "${url}/tree.nar"; outputHash = hashes.tree; unpack = true; name = "unpacked"; };
  unpackedXz = fetch { url = "${url}/tree.nar.xz"; outputHash = hashes.tree; unpack = true; name = "unpacked-xz"; };
  unpackedExecutable = fetch { url = "${url}/program.nar.xz"; outputHash = hashes.executable; unpack = true; executable = true; name = "unpacked-executable"; };
  fromStore = fetch { url = "file://${builtins.toFile "text" "some text\n"}"; outputHash = builtins.hashString "sha256" "some text\n"; name = "from-store"; };

  environmentOfOne = environment [ "true" 5 1 a ];
  environmentOfTwo = environment [ "true" 5 1 a "true" 5 1 b ];
  environmentByPriority = environment [ "true" 5 1 a "true" (-3) 1 same "false" 5 1 c "true" 7 2 b b ];
  environmentPropagated = environment [ "true" 5 1 c ];
  environmentWithFile = environment [ "true" 5 1 one "true" 5 1 b ];
  environmentOfNone = environment [ ];

  channelGz = channel "gz" /w/channel.tar.gz;
  channelXz = channel "xz" /w/channel.tar.xz;
  channelBz2 = channel "bz2" /w/channel.tar.bz2;
  channelTar = channel "tar" /w/channel.tar;

  ofTheMachine = fetch { url = "file:///etc/shadow"; outputHash = no; };
  wrongHash = fetch { url = "${url}/file"; outputHash = no; };
  absent = fetch { url = "${url}/absent"; outputHash = no; };
  inCircles = fetch { url = "${url}/circle"; outputHash = no; };
  toFile = fetch { url = "${url}/to-file"; outputHash = no; };
  stalled = fetch { url = "${url}/stalled"; outputHash = no; };
  endless = fetch { url = "${url}/endless"; outputHash = no; };
  untrusted = fetch { url = "${secure}/file"; outputHash = hashes.file.sha256; name = "untrusted"; };
  broken = fetch { url = "${url}/file"; outputHash = no; unpack = true; };
  noHash = derivation { name = "no-hash"; system = "builtin"; builder = "builtin:fetchurl"; url = "${url}/file"; };
  conflict = environment [ "true" 5 1 a "true" 5 1 same ];
  folderConflict = environment [ "true" 5 1 a "true" 6 1 folder ];
  twoFolders = channel "two" /w/two.tar.gz;
  badName = channel "a/b" /w/channel.tar.gz;
  outside = channel "outside" /w/outside.tar.gz;
}
