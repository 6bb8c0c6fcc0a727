// BullMQ, unchanged, over the client library that TEST_CLIENT names: every job is processed once, whatever happens.
import { FlowProducer, Job, Queue, QueueEvents, Worker } from 'bullmq'
import Redis from 'ioredis'
import { createClient } from 'redis'
import { assert, host, port, main, until } from './common.mjs'

const range = n => Array.from({ length: n }, (_, i) => i)
const connection = process.env.TEST_CLIENT === 'redis' ? createClient({ socket: { host, port } }) : { host, port }
const admin = new Redis({ host, port })

const finished = (jobs, events) => Promise.all(jobs.map(job => job.waitUntilFinished(events, 50_000)))

// A queue with its events and some workers, closed at the end of the step.
async function withQueue(name, { workers = 1, options = {}, process }, step) {
  const queue = new Queue(name, { connection })
  const events = new QueueEvents(name, { connection })
  await events.waitUntilReady()
  const started = range(workers).map(() => new Worker(name, process, { connection, concurrency: 5, ...options }))
  await Promise.all(started.map(w => w.waitUntilReady()))
  try {
    await step(queue, events, started)
    const { waiting, active, delayed, failed } = await queue.getJobCounts()
    assert.deepEqual({ waiting, active, delayed, failed }, { waiting: 0, active: 0, delayed: 0, failed: 0 })
  } finally {
    await Promise.all([...started, events, queue].map(c => c.close()))
  }
}

await main({
  'workers share the jobs, each is processed once': async () => {
    const processed = []
    const process = async job => {
      processed.push(job.data.n)
      await job.updateProgress(50)
      return job.data.n * 2
    }
    await withQueue('shared', { workers: 3, process }, async (queue, events) => {
      const completed = new Map()
      const progress = new Set()
      events.on('completed', ({ jobId, returnvalue }) => completed.set(jobId, returnvalue))
      events.on('progress', ({ jobId }) => progress.add(jobId))
      const jobs = await queue.addBulk(range(150).map(n => ({ name: 'double', data: { n } })))
      jobs.push(...await Promise.all(range(50).map(n => queue.add('double', { n: 150 + n }, { priority: 1 + n % 3 }))))
      assert.deepEqual(await finished(jobs, events), range(200).map(n => 2 * n))
      assert.deepEqual(processed.sort((a, b) => a - b), range(200))
      await until(() => completed.size === 200 && progress.size === 200, 'all events')
      assert.equal((await queue.getJobCounts()).completed, 200)
    })
  },
  'an idle worker is woken by the next job': async () => {
    await withQueue('idle', { process: async job => job.data }, async (queue, events) => {
      for (const n of range(5)) {
        await until(async () => (await admin.info('clients')).includes('blocked_clients:2'), 'worker and events wait')
        assert.equal(await (await queue.add('one', n)).waitUntilFinished(events, 50_000), n)
      }
    })
  },
  'delayed jobs come later and in their order': async () => {
    const order = []
    const process = async job => order.push(job.data)
    await withQueue('delayed', { process, options: { concurrency: 1 } }, async (queue, events) => {
      const jobs = await Promise.all([2000, 1500, 1750].map(delay => queue.add('later', delay, { delay })))
      assert.equal((await queue.getJobCounts()).delayed, 3)
      jobs.push(await queue.add('now', 0))
      await finished(jobs, events)
      assert.deepEqual(order, [0, 1500, 1750, 2000])
    })
  },
  'failed jobs are tried again with backoff': async () => {
    const attempts = {}
    const process = async job => {
      attempts[job.id] = (attempts[job.id] ?? 0) + 1
      if (attempts[job.id] < job.data.needs) throw new Error('not yet')
      return attempts[job.id]
    }
    await withQueue('retried', { workers: 2, process }, async (queue, events) => {
      const backoff = { type: 'exponential', delay: 20 }
      const options = { attempts: 4, backoff }
      const jobs = await Promise.all(range(9).map(n => queue.add('retry', { needs: 1 + n % 3 }, options)))
      assert.deepEqual(await finished(jobs, events), range(9).map(n => 1 + n % 3))
      const hopeless = await queue.add('retry', { needs: 9 }, { attempts: 2 })
      await assert.rejects(hopeless.waitUntilFinished(events, 50_000), /not yet/)
      assert.equal((await Job.fromId(queue, hopeless.id)).attemptsMade, 2)
      assert.deepEqual((await queue.getFailed()).map(job => job.id), [hopeless.id])
      await hopeless.remove()
    })
  },
  'a rate limit spreads the jobs and loses none': async () => {
    const times = []
    const options = { limiter: { max: 5, duration: 100 } }
    const process = async () => times.push(Date.now())
    await withQueue('limited', { workers: 2, process, options }, async (queue, events) => {
      const jobs = await queue.addBulk(range(15).map(n => ({ name: 'limited', data: n })))
      await finished(jobs, events)
      assert.equal(times.length, 15)
    })
  },
  'a parent waits for its children': async () => {
    const flows = new FlowProducer({ connection })
    const process = async job => job.name === 'child'
      ? job.data
      : Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0)
    await withQueue('family', { workers: 2, process }, async (queue, events) => {
      const children = range(20).map(n => ({ name: 'child', queueName: 'family', data: n }))
      const { job } = await flows.add({ name: 'parent', queueName: 'family', children })
      assert.equal(await job.waitUntilFinished(events, 50_000), 190)
    })
    await flows.close()
  },
  'a schedule repeats its job until it is removed': async () => {
    let runs = 0
    await withQueue('scheduled', { process: async () => { runs++ } }, async queue => {
      await queue.upsertJobScheduler('tick', { every: 50 }, { name: 'tick' })
      await until(() => runs >= 3, 'three runs')
      assert.equal(await queue.removeJobScheduler('tick'), true)
      const left = async () => Object.values(await queue.getJobCounts('waiting', 'active', 'delayed'))
      await until(async () => (await left()).every(n => n === 0), 'the last run ends')
    })
  },
  'a paused queue goes on where it was': async () => {
    const processed = []
    await withQueue('paused', { process: async job => processed.push(job.data) }, async (queue, events) => {
      await queue.pause()
      const jobs = await queue.addBulk(range(10).map(n => ({ name: 'n', data: n })))
      assert.equal(await queue.isPaused(), true)
      assert.deepEqual(processed, [])
      await queue.resume()
      await finished(jobs, events)
      assert.equal(processed.length, 10)
      await queue.drain()
      await queue.obliterate({ force: true })
      assert.deepEqual(await admin.keys('bull:paused:*'), [])
    })
  },
})
