# The machines file for a list of machines in the form of NixOS's `nix.buildMachines`, byte for byte what
# NixOS writes to /etc/nix/machines for it.
buildMachines:

let
  orDash = text: if text == null || text == "" then "-" else text;
  commas = builtins.concatStringsSep ",";

  uri =
    machine:
    (if machine.protocol == null then "" else "${machine.protocol}://")
    + (if machine.sshUser == null then "" else "${machine.sshUser}@")
    + machine.hostName;

  # `system` wins where both are given.
  systems = machine: if machine.system != null then machine.system else commas machine.systems;

  columns = machine: [
    (uri machine)
    (orDash (systems machine))
    (if machine.sshKey == null then "-" else machine.sshKey)
    (toString machine.maxJobs)
    (toString machine.speedFactor)
    # What a machine insists on it has as well.
    (orDash (commas (machine.supportedFeatures ++ machine.mandatoryFeatures)))
    (orDash (commas machine.mandatoryFeatures))
    (if machine.publicHostKey == null then "-" else machine.publicHostKey)
  ];
in
builtins.concatStringsSep "" (
  map (machine: builtins.concatStringsSep " " (columns machine) + "\n") buildMachines
)
