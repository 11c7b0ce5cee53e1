#!/usr/bin/env bash
# A SLURM of one node, this machine, for tests. As root, on Debian or Ubuntu. Prints "ready".
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
if ! command -v sbatch slurmctld munged >/dev/null; then
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
node=$(hostname -s)
grep -qw "$node" /etc/hosts || echo "127.0.0.1 $node" >>/etc/hosts
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
mkdir -p /run/munge /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/munge
[ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key; }
chown -R munge: /run/munge /etc/munge /var/lib/munge /var/log/munge
chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || runuser -u munge -- munged
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=30
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
NodeName=$node CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=60 State=UP
CONF
pgrep -x slurmctld >/dev/null || slurmctld
pgrep -x slurmd >/dev/null || slurmd
for _ in $(seq 30); do
    if sinfo -h -o %T | grep -qE "idle|mixed|alloc"; then echo ready; exit; fi
    sleep 1
done
sinfo
exit 1
