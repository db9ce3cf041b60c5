#!/usr/bin/env bash
# Install Debian's Slurm and start it on this machine as one node, as root; for tests of launchers, in a container.
#
#   scripts/start_slurm.sh && sinfo
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

if ! command -v slurmctld > /dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
fi
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /run/munge
chown munge: /run/munge
if ! pgrep -x munged > /dev/null; then su munge -s /bin/sh -c munged; fi
cat > /etc/slurm/slurm.conf << END
ClusterName=lora-ns
SlurmctldHost=$(hostname -s)
SlurmUser=root
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
$(slurmd -C | head -n 1) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
pgrep -x slurmctld > /dev/null || slurmctld
pgrep -x slurmd > /dev/null || slurmd
for _ in $(seq 30); do
  if sinfo --noheader --states=idle,mixed,alloc 2> /dev/null | grep -q .; then exit 0; fi
  sleep 1
done
echo "no node is up: see /var/log/slurmctld.log and /var/log/slurmd.log" >&2
exit 1
