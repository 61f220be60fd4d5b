# Derivations that show what a build is given and what is made of what it leaves.
{ tools }:

let
  bin = builtins.path { path = tools; name = "tools"; };
  sh = "${bin}/bin/sh";
  base = {
    system = builtins.currentSystem;
    builder = sh;
    PATH = "${bin}/bin";
  };
  run = name: script: extra: derivation (base // {
    inherit name;
    args = [ "-e" "-c" script ];
  } // extra);

  # what only these derivations' processes have in their command lines
  mark = toString tools;
  # runs for long, marked
  sleep = "busybox sh -c 'busybox sleep 1000; :' ${mark}";
  # waits until the test gives its signal
  wait = "echo begun; while ! test -e /signal/go; do busybox sleep 0.05; done";

  # What must not be touched, and links to it at all names that are written in the end: in the store, beside the
  # outputs, and in folders that are there for a while.
  sentinel = "${dirOf mark}/sentinel";
  plant = ''
    link() { busybox rm -f "$1"; busybox ln -s ${sentinel} "$1" || true; }
    for folder in $NIX_STORE $NIX_STORE/*-tmp-* .; do
      for output in out dev; do
        for stage in copy others self; do link $folder/$stage-$output; done
      done
    done
    for number in $(busybox seq 0 9); do link $NIX_STORE/.tmp-link-${builtins.readFile "${dirOf mark}/process"}-$number; done
    for path in $out $dev; do
      for end in .lock .tmp .check; do link $path$end; done
    done
  '';

  dep = run "dep" "echo dep > $out" { };
  deep = run "deep" "echo ${dep} > $out" { };

  self = rec {
    plain = run "plain" "echo hello; echo some text > $out" { };
    folder = run "folder" "busybox mkdir -p $out/a/b; echo x > $out/a/b/file; busybox chmod +x $out/a/b/file; busybox ln -s a/b/file $out/link" { };
    refers = run "refers" "echo ${dep} > $out; echo $out >> $out" { };
    chain = run "chain" "echo ${deep} > $out" { };
    outputs = run "outputs" "echo $dev > $out; busybox mkdir $dev; echo ${dep} > $dev/x; echo $doc > $doc" { outputs = [ "out" "dev" "doc" ]; };
    environment = run "environment" "busybox env | busybox sort > $out; busybox pwd >> $out; busybox id >> $out; busybox ls -a /build /tmp / /dev /etc >> $out; busybox cat /etc/passwd /etc/group /etc/hosts >> $out; busybox hostname >> $out; umask >> $out; ulimit -c >> $out" { variable = "a value"; HOME = "/mine"; };
    asFile = run "as-file" "busybox cat $bigPath > $out; echo $bigPath >> $out" { passAsFile = [ "big" ]; big = "much text"; };
    structured = run "structured" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo a > $out
      $busybox cat .attrs.json >> $out
    '' { __structuredAttrs = true; list = [ "a" 1 true ]; };
    graph = run "graph" "busybox cat closure other > $out" { exportReferencesGraph = [ "closure" deep "other" dep ]; };
    # a plain use of a `.drv` needs all that it needs and makes to be there
    graphOfDerivation = run "graph-of-derivation" "busybox cat graph > $out" { exportReferencesGraph = [ "graph" chain.drvPath ]; };
    structuredGraphOfDerivation = run "structured-graph-of-derivation" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      $busybox cat .attrs.json > $out
    '' { __structuredAttrs = true; exportReferencesGraph.graph = [ chain.drvPath ]; };
    seesHello = run "sees-hello" "test -x /bin/hello && echo seen > $out" { };
    i686 = run "i686" "busybox uname -m > $out" { system = "i686-linux"; };
    armv7 = run "armv7" "busybox uname -m > $out" { system = "armv7l-linux"; };
    mixedModes = run "modes" "busybox mkdir $out; echo a > $out/a; busybox chmod 600 $out/a; echo b > $out/b; busybox chmod 755 $out/b; busybox mkdir $out/d; busybox chmod 700 $out/d; busybox ln $out/a $out/c" { };
    flat = run "flat" "printf hello > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    recursive = run "recursive" "busybox mkdir $out; printf hello > $out/x" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "sha256-kkG27fx02iul3ousfYLxRNWvL2KPj7mekxj2g2G6ekE="; };
    impure = run "impure-variable" "printf '%s' \"$outside\" > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "a variable from outside"; impureEnvVars = [ "outside" ]; };
    floating = run "floating" "echo ${dep} > $out" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    floatingFlat = run "floating-flat" "echo some > $out" { __contentAddressed = true; outputHashMode = "flat"; outputHashAlgo = "sha256"; };
    floatingSelf = run "floating-self" "busybox mkdir $out; echo $out > $out/x; busybox ln -s $out/x $out/y" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    floatingOutputs = run "floating-outputs" "echo $dev > $out; echo dev > $dev" { outputs = [ "out" "dev" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    afterFloating = run "after-floating" "echo ${floating} > $out" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    allowed = run "allowed" "echo ${dep} > $out" { allowedReferences = [ dep ]; };
    requisites = run "requisites" "echo ${deep} > $out" { allowedRequisites = [ dep deep ]; };
    large = run "large" "busybox dd if=/dev/zero bs=1M count=5 2>/dev/null > $out; echo ${dep} >> $out" { };
    silentSuccess = run "silent" "echo > $out" { };

    depAlone = dep;
    deepAlone = deep;
    seesDeep = run "sees-deep" "busybox cat $(busybox cat /deep) > $out; test -x /bin/hello && echo seen >> $out" { };
    rangeOfUsers = run "range" "busybox id -u; busybox id -g; busybox awk '{ print \$3 }' /proc/self/uid_map; busybox mkdir $out; echo > $out/x; busybox chown 17:18 $out/x" { requiredSystemFeatures = [ "uid-range" ]; };
    rangeWrites = run "range-writes" "busybox mkdir /run; echo x > /etc/machine-id; busybox cp /etc/machine-id $out" { requiredSystemFeatures = [ "uid-range" ]; };
    rangeGives = run "range-gives" "busybox mkdir $out; busybox chown 5:5 $out" { requiredSystemFeatures = [ "uid-range" ]; };
    seesDevice = run "sees-device" "busybox head -c 3 /named/zero | busybox wc -c > $out" { };
    linksOwn = run "links-own" "busybox mkdir $out; echo x > $NIX_STORE/own; busybox ln $NIX_STORE/own $out/a; busybox ln $NIX_STORE/own $out/b" { };
    wrongHashRefers = run "wrong-hash-refers" "echo ${dep} > $out" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    wrongHashRefersFlat = run "wrong-hash-refers-flat" "echo ${dep} > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    oddGraph = run "odd-graph" "echo > $out" { exportReferencesGraph = [ "alone" ]; };
    structuredGraph = run "structured-graph" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      $busybox cat .attrs.json > $out
    '' { __structuredAttrs = true; exportReferencesGraph.closure = [ deep ]; };
    structuredShell = run "structured-shell" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      $busybox cat .attrs.sh > $out
      $busybox env | $busybox sort >> $out
    '' { __structuredAttrs = true; number = 12; float = 1.5; nothing = null; words = "it's"; table = { a = "b"; c = true; }; nested = [ [ 1 ] ]; };
    sha1 = run "sha1" "printf hello > $out" { outputHashMode = "flat"; outputHashAlgo = "sha1"; outputHash = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"; };
    floatingOutputsSelf = run "floating-outputs-self" "busybox mkdir $out; echo $out $dev > $out/x; echo $dev > $dev" { outputs = [ "out" "dev" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    floatingSha512 = run "floating-sha512" "echo some > $out" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha512"; };
    deferred = run "deferred" "echo ${floating} > $out" { };
    sizes = run "sizes" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo some > $out
    '' { __structuredAttrs = true; outputChecks.out = { maxSize = 1000; maxClosureSize = 1000; }; };
    outputsChecked = run "outputs-checked" ''
      busybox=${bin}/bin/busybox
      dev=$($busybox sed -n 's/.*"dev":"\([^"]*\)".*/\1/p' .attrs.json)
      out=$($busybox sed -n 's/.*"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo $dev > $out; echo ${dep} > $dev
    '' { __structuredAttrs = true; outputs = [ "out" "dev" ]; outputChecks.out.allowedReferences = [ "dev" ]; outputChecks.dev.disallowedRequisites = [ "out" ]; };
    discards = run "discards" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo ${dep} > $out
    '' { __structuredAttrs = true; unsafeDiscardReferences.out = true; };
    floatingDiscards = run "floating-discards" ''
      busybox=${bin}/bin/busybox
      path() { $busybox sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" .attrs.json; }
      dev=$(path dev); lib=$(path lib); out=$(path out)
      $busybox mkdir $out
      echo $out $dev $lib ${dep} > $out/x
      echo $dev ${dep} > $dev
      echo $dev $lib > $lib
    '' { __structuredAttrs = true; outputs = [ "out" "dev" "lib" ]; unsafeDiscardReferences = { out = true; dev = true; lib = false; }; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    emptyFolder = run "empty-folder" "busybox mkdir $out" { };
    manyFiles = run "many-files" "busybox mkdir $out; for i in $(busybox seq 200); do echo $i ${dep} > $out/$i; done" { };
    deepFolder = run "deep-folder" "busybox mkdir -p $out/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15; echo ${dep} > $out/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/file" { };
    oddNames = run "odd-names" "busybox mkdir $out; echo > \"$out/a b\"; echo > \"$out/ü\"; echo > $out/-x; echo > $out/.hidden; busybox ln -s nowhere \"$out/dangling\"" { };
    compressedReference = run "compressed" "echo ${dep} | busybox gzip -n > $out" { };
    splitOutputs = run "split" "busybox mkdir $out $bin; echo $bin > $out/x; echo $lib > $bin/x; echo ${deep} > $lib" { outputs = [ "out" "bin" "lib" ]; };
    symlinkOut = run "symlink" "busybox ln -s ${dep} $out" { };
    executableOut = run "executable" "echo x > $out; busybox chmod 711 $out" { };
    requiresFeature = run "requires-feature" "echo > $out" { requiredSystemFeatures = [ "big-parallel" "benchmark" ]; };
    longLog = run "long-log" "for i in $(busybox seq 20000); do echo \"line $i of a log that is long enough for several pieces\"; done; echo > $out" { };
    wrongHashRecursive = run "wrong-hash-recursive" "busybox mkdir $out" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    disallowedSelf = run "disallowed-self" "echo $out > $out" { allowedReferences = [ ]; };
    tooLarge = run "too-large" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo some > $out
    '' { __structuredAttrs = true; outputChecks.out.maxSize = 10; };
    closureTooLarge = run "closure-too-large" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo ${deep} > $out
    '' { __structuredAttrs = true; outputChecks.out.maxClosureSize = 200; };
    fixedRefers = run "fixed-refers" "echo ${dep} > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };

    # another each time
    differs = run "differs" "busybox mkdir $out; busybox cat /proc/sys/kernel/random/uuid > $out/x" { };
    floatingDiffers = run "floating-differs" "busybox cat /proc/sys/kernel/random/uuid > $out" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    oneDiffers = run "one-differs" "echo $dev > $out; busybox cat /proc/sys/kernel/random/uuid > $dev" { outputs = [ "out" "dev" ]; };

    failingBuiltin = derivation { name = "failing"; system = "builtin"; builder = "builtin:fetchurl"; url = "file:///nowhere"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };

    # attacks
    inode = run "inode" "echo x > $out; busybox stat -c %i $out" { };
    treeInodes = run "recursive" "busybox mkdir $out; printf hello > $out/x; busybox stat -c %i $out $out/x" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "sha256-kkG27fx02iul3ousfYLxRNWvL2KPj7mekxj2g2G6ekE="; };
    impureInode = run "impure-inode" "echo x > $out; busybox stat -c %i $out" { __impure = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    rangeInode = run "range-inode" "echo x > $out; busybox stat -c %i $out" { requiredSystemFeatures = [ "uid-range" ]; };
    connects = run "connects" "/probe connect drover-test-neighbour || true; printf hello > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fixedInode = run "fixed-inode" "printf hello > $out; busybox stat -c %i $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    plants = run "plants" "${plant} busybox ln -s ${sentinel} $out" { };
    plantsFloating = run "plants-floating" "${plant} busybox mkdir $out; busybox ln -s ${sentinel} $out/link; echo $out $dev > $out/x; busybox ln -s $dev $out/dev; echo $dev > $dev" { outputs = [ "out" "dev" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    plantsFixed = run "plants-fixed" "${plant} busybox mkdir $out; busybox ln -s /etc/hostname $out/link" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "sha256-XWp2AQcDyyuTO/Cx/c7f90ISY8hZBT1Vr5hhf3IeJJg="; };
    links = run "links" "busybox mkdir $out; busybox ln ${dep} $out/x" { };
    setIdMade = run "set-id-made" "busybox mkdir $out; /probe set-id $out; /probe set-id ." { };
    setIdFails = run "set-id-fails" "busybox mkdir $out; /probe set-id $out; /probe set-id .; exit 1" { };
    setIdDiffers = run "set-id-differs" "busybox mkdir $out; busybox cat /proc/sys/kernel/random/uuid > $out/x; /probe set-id $out; /probe set-id ." { };
    setUser4755 = run "set-user" "echo > $out; busybox chmod 4755 $out || true" { };
    setUser2755 = run "set-group" "echo > $out; busybox chmod 2755 $out || true" { };

    closesLogAtEnd = run "closes-log-at-end" "echo > $out; exec >&- 2>&-" { };
    rulesForNobody = run "rules-for-nobody" ''
      busybox=${bin}/bin/busybox
      out=$($busybox sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' .attrs.json)
      echo some > $out
    '' { __structuredAttrs = true; outputChecks.doc.maxSize = 0; unsafeDiscardReferences.doc = true; };
    oddMessages = run "odd-messages" "echo '@nix hello'; echo '@nix {\"action\":null}'; echo '@nix {\"action\":\"stop\",\"id\":1}'; echo > $out" { };
    impureVariable = run "impure-variable" "echo $VARIABLE; exit 1" { impureEnvVars = [ "VARIABLE" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };

    # what fails
    wrongSpecifier = run "wrong-specifier" "echo > $out; echo > $dev" { outputs = [ "out" "dev" ]; allowedReferences = [ "nobody" ]; };
    closesLog = run "closes-log" "exec >&- 2>&-; busybox sleep 1000" { };
    exits = run "exits" "echo before; exit 3" { };
    floatingExits = run "floating-exits" "echo > $out; exit 3" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    signalled = run "signalled" "busybox sh -c 'kill -6 $$; busybox true'; exit $?" { };
    absent = run "absent" "true" { };
    noProgram = derivation (base // { name = "no-program"; builder = "/no/such/builder"; });
    wrongHash = run "wrong-hash" "printf other > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    mendedHash = run "wrong-hash" "printf other > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"; };
    mendedHashRecursive = run "wrong-hash-recursive" "busybox mkdir $out" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "sha256-pQpattmS9VmO3ZIQUFn66az8GSmB4IvYhTTCFn6SUmo="; };
    claimsFirst = run "claims" "${wait}; printf first > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "second"; };
    claimsSecond = run "claims" "${wait}; printf second > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "first"; };
    notFlat = run "not-flat" "busybox mkdir $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    cycle = run "cycle" "echo $dev > $out; echo $out > $dev" { outputs = [ "out" "dev" ]; };
    disallowed = run "disallowed" "echo ${dep} > $out" { allowedReferences = [ ]; };
    disallowedDeep = run "disallowed-deep" "echo ${deep} > $out" { disallowedRequisites = [ dep ]; };
    fifo = run "fifo" "busybox mkdir $out; busybox mkfifo $out/f" { };
    writable = run "writable" "echo > $out; busybox chmod 666 $out" { };
    someOutputs = run "some-outputs" "echo > $out; exit 1" { outputs = [ "out" "dev" ]; };
    someRefused = run "some-outputs" "echo ${dep} > $out; echo > $dev" { outputs = [ "out" "dev" ]; allowedReferences = [ ]; };
    someSleep = run "some-outputs" "echo > $out; echo begin; ${sleep}" { outputs = [ "out" "dev" ]; };
    someFloating = run "some-outputs" "echo out > $out; printf precious > $dev" { outputs = [ "out" "dev" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    someFloatingFail = run "some-outputs" "echo other > $out; printf precious > $dev; exit 1" { outputs = [ "out" "dev" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    fillsFolder = run "fills-folder" "busybox dd if=/dev/zero of=much bs=1M count=4; echo > $out" { };
    talks = run "talks" "while true; do echo many words; done" { };
    floods = run "floods" "line=begin; for n in 1 2 3 4 5 6 7 8 9 10 11 12; do line=$line$line; done; while true; do echo $line; done" { };
    sleeps = run "sleeps" "echo begin; ${sleep}" { };
    rangeSleeps = run "range-sleeps" "echo begin; ${sleep}" { requiredSystemFeatures = [ "uid-range" ]; };
    forks = run "forks" "(${sleep} &) ; busybox setsid ${sleep} & echo > $out" { };
    recursiveNix = run "recursive-nix" "echo > $out" { requiredSystemFeatures = [ "recursive-nix" ]; };
    otherSystem = run "other-system" "echo > $out" { system = "riscv64-linux"; };
    builtin = derivation { name = "builtin"; builder = "builtin:unknown"; system = builtins.currentSystem; };
    noChroot = run "no-chroot" "echo > $out" { __noChroot = true; };
    whoami = run "whoami" "busybox id -u; busybox id -g; busybox readlink /proc/self/ns/net; busybox grep -E '^(Cap|NoNew|Seccomp|Groups|Uid|Gid)' /proc/self/status; busybox ls /proc/self/fd; echo > $out" { };
    # what builds with a network of their own find: `far` serves at port 80, and the machine at 8001
    fetches = run "fetches" ''
      echo interfaces: $(busybox sed -n 's/^ *\([a-z0-9]*\):.*/\1/p' /proc/net/dev)
      echo sockets: $(busybox grep -o '@.*' /proc/net/unix)
      echo resolv: $(busybox cat /etc/resolv.conf)
      for host in $loopbacks; do
        busybox nc -w 2 $host 8001 </dev/null >/dev/null 2>&1 && echo reached: $host || true
      done
      echo known: $(busybox nslookup known.test $resolver 2>&1 | busybox grep -A1 '^Name' | busybox tail -n 1)
      busybox wget -q -O $out http://far/hello
      busybox wget -q -O - "http://[fd09::2]/hello" && echo
      busybox readlink /proc/self/ns/net
    '' { loopbacks = [ "127.0.0.1" "192.0.0.1" "::1" "64:ff9b:1:d0e::1" "::ffff:127.0.0.1" ]; resolver = "192.0.0.1"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesFirst = run "fetches-first" "busybox wget -q -O $out http://far/hello" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesInRange = run "fetches-in-range" "busybox wget -q -O $out http://far/hello" { requiredSystemFeatures = [ "uid-range" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesBuiltin = derivation { name = "fetches-builtin"; builder = "builtin:fetchurl"; system = "builtin"; url = "http://far/hello"; urls = [ "http://far/hello" ]; unpack = false; executable = false; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesFailing = run "fetches-failing" "busybox wget -q -O $out http://far/hello; exit 3" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesLater = run "fetches-later" "${wait}; busybox wget -q -T 5 -O $out http://far/hello" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    fetchesForEver = run "fetches-for-ever" "echo begun; busybox sleep 1000" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
    network = run "network" "busybox ip link 2>/dev/null | busybox grep -c '^[0-9]' ; echo > $out" { };
  };
in
self
