# The options of NixOS that nix/module.nix reads and sets, with the types and defaults that NixOS has.
{ lib, ... }:

let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption { inherit type default; };
  anything = option types.anything { };
  machine.options = {
    hostName = mkOption { type = types.str; };
    protocol = option (types.enum [
      null
      "ssh"
      "ssh-ng"
    ]) "ssh";
    system = option (types.nullOr types.str) null;
    systems = option (types.listOf types.str) [ ];
    sshUser = option (types.nullOr types.str) null;
    sshKey = option (types.nullOr types.str) null;
    maxJobs = option types.int 1;
    speedFactor = option types.ints.positive 1;
    supportedFeatures = option (types.listOf types.str) [ ];
    mandatoryFeatures = option (types.listOf types.str) [ ];
    publicHostKey = option (types.nullOr types.str) null;
  };
in
{
  options = {
    assertions = option (types.listOf types.anything) [ ];
    warnings = option (types.listOf types.str) [ ];
    environment.etc = anything;
    environment.systemPackages = option (types.listOf types.package) [ ];
    networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
    nix = {
      enable = option types.bool true;
      buildMachines = option (types.listOf (types.submodule machine)) [ ];
      package = anything;
      distributedBuilds = option types.bool false;
      # lists that several modules set are joined
      settings = option (types.attrsOf (types.either (types.listOf types.str) types.anything)) { };
    };
    nixpkgs.hostPlatform = anything;
    services.openssh.enable = option types.bool false;
    system.stateVersion = option types.str "";
    systemd.services = anything;
    users.groups = anything;
    users.users = anything;
  };
}
